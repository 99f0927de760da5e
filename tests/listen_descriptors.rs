//! Alone in its process, because it takes the process's file descriptors away.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/device_port.rs"]
mod device_port;

use device_port::{A_WHILE, Port, devices};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_hub_without_file_descriptors_goes_on_when_there_are_some_again() {
    let mut port = Port::start(devices()).await;
    let mut device = port.connect("early").await;
    device.hello("s").await;
    let before = getrlimit(Resource::Nofile);
    let few = Rlimit {
        current: Some(40),
        ..before
    };
    setrlimit(Resource::Nofile, few).unwrap();
    let mut crowd = Vec::new();
    while let Ok(tcp) = TcpStream::connect(port.addr).await {
        crowd.push(tcp);
    }
    // Accept fails now, again and again; who is in does not notice.
    tokio::time::sleep(A_WHILE).await;
    assert!(!port.task.is_finished());
    device.data(1).await;
    let arrival = port.intake.arrival().await;
    port.intake.settle(&arrival);
    assert_eq!(device.ack().await, 1);

    crowd.clear();
    setrlimit(Resource::Nofile, before).unwrap();
    port.connect("late").await.hello("s").await;
}
