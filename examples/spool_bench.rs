//! Measures the spool alone: `cargo run --release --example spool_bench -- DIR MEGABYTES [COMMIT_KIB] [BATCH_BYTES]`.
//!
//! Fills a spool in DIR (on the file system that is to be measured) with that much payload,
//! one commit at a time, opens it again, drains half of it, and prints speed, bytes written per
//! byte of payload (`write_bytes` of /proc/self/io), memory (`VmRSS`) and sizes.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_precision_loss)]

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use telehub::config::{Overflow, Spool, SpoolWrite};
use telehub::reading::{Batch, Encoding, Item};
use telehub::spool::{self, Command, CommandSender, Event};
use telehub::status::board::bytes_written;
use tokio::sync::mpsc::Receiver;

fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

fn next(events: &mut Receiver<Event>) -> Event {
    events.blocking_recv().unwrap()
}

fn open(config: &Spool) -> (CommandSender, Receiver<Event>, JoinHandle<()>, u64) {
    let begun = Instant::now();
    let (commands, mut events, thread) = spool::start(config).unwrap();
    let Event::Opened { depth, .. } = next(&mut events) else {
        panic!("the first event is Opened")
    };
    println!(
        "open: {:?}, {} groups, {} batches, RSS {} MB",
        begun.elapsed(),
        depth.groups,
        depth.batches,
        memory()
    );
    (commands, events, thread, depth.groups)
}

fn main() {
    let mut args = std::env::args().skip(1);
    let path = PathBuf::from(
        args.next()
            .expect("DIR MEGABYTES [COMMIT_KIB] [BATCH_BYTES]"),
    );
    let mut number = |default| {
        args.next()
            .map_or(default, |arg| arg.parse::<usize>().unwrap())
    };
    let total = number(100) * 1_000_000;
    let commit = number(32) * 1024;
    let size = number(300);
    let config = Spool {
        path: path.join("spool-bench"),
        write: SpoolWrite::Outage,
        max_size: 8 << 30,
        min_free: 0,
        max_age: Duration::from_secs(86_400),
        commit_interval: Duration::ZERO,
        overflow: Overflow::Refuse,
    };
    let _ = std::fs::remove_dir_all(&config.path);
    println!("before: RSS {} MB", memory());
    let (commands, mut events, thread, _) = open(&config);

    let written = bytes_written();
    let begun = Instant::now();
    let (mut payload, mut ticket, mut seq, mut random) = (0, 0, 0, 1_u64);
    let mut longest = Duration::ZERO;
    let mut disk = 0;
    while payload < total {
        let mut items = Vec::new();
        let mut bytes = 0;
        while bytes < commit {
            seq += 1;
            let mut frame = vec![0; size];
            for byte in &mut frame {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                *byte = random.to_be_bytes()[0];
            }
            items.push(Arc::new(Item::Batch(Batch {
                device: format!("device-{}", seq % 200).into(),
                stream: "boot-1".into(),
                seq: Some(seq),
                received: telehub::reading::Moment::at(1e9),
                readings: 10,
                encoding: Encoding::Cbor,
                frame: frame.into(),
            })));
            bytes += size + 128;
            payload += size;
        }
        ticket += 1;
        let sent = Instant::now();
        commands
            .send(Command::Commit {
                ticket,
                items,
                marks: Vec::new(),
            })
            .unwrap();
        loop {
            match next(&mut events) {
                Event::Committed { .. } => break,
                Event::Usage(usage) => disk = usage.disk_bytes,
                other => panic!("{other:?}"),
            }
        }
        longest = longest.max(sent.elapsed());
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "fill: {ticket} commits of {} KiB, {:.0} commits/s, {:.1} MB/s, {:.0} readings/s, {:.2} bytes written per byte of frames, {:.2} on disk, longest commit {longest:?}, RSS {} MB",
        commit / 1024,
        ticket as f64 / seconds,
        payload as f64 / 1e6 / seconds,
        seq as f64 * 10.0 / seconds,
        (bytes_written() - written) as f64 / payload as f64,
        disk as f64 / payload as f64,
        memory()
    );
    let begun = Instant::now();
    commands.send(Command::Stop { marks: Vec::new() }).unwrap();
    thread.join().unwrap();
    println!("stop: {:?}, RSS {} MB", begun.elapsed(), memory());

    let (commands, mut events, thread, groups) = open(&config);
    let written = bytes_written();
    let begun = Instant::now();
    let mut after = None;
    let (mut drained, mut most) = (0, 0);
    while drained < groups / 2 {
        commands
            .send(Command::Load {
                after,
                max_bytes: 256 * 1024,
                replies: false,
            })
            .unwrap();
        let loaded = loop {
            if let Event::Loaded { groups, .. } = next(&mut events) {
                break groups;
            }
        };
        let ids: Vec<_> = loaded.iter().map(|group| group.id).collect();
        after = ids.last().copied();
        drained += ids.len() as u64;
        commands.send(Command::Delete { groups: ids }).unwrap();
        most = most.max(memory());
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "drain of half: {:.1} MB/s, {:.3} bytes written per byte, RSS at most {most} MB",
        payload as f64 / 2e6 / seconds,
        (bytes_written() - written) as f64 / (payload as f64 / 2.0),
    );
    commands.send(Command::Stop { marks: Vec::new() }).unwrap();
    thread.join().unwrap();
    std::fs::remove_dir_all(&config.path).unwrap();
}
