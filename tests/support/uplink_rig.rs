//! An uplink between a broker and a test that plays the intake.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use telehub::commands::port::UplinkWays;
use telehub::config::{self, DrainOrder, Format, Uplink};
use telehub::reading::{Batch, Encoding, Item, Lane};
use telehub::status::board::Board;
use telehub::status::presence::{Outbox, Presence};
use telehub::stop::{self, Stopper};
use telehub::uplink::{self, Event, Pace, Settings, Submission};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::broker::soon;

/// Quick enough for tests; `settled` so long that only acknowledgements make a connection good.
pub const PACE: Pace = Pace {
    first_retry: Duration::from_millis(10),
    longest_retry: Duration::from_millis(100),
    settled: Duration::from_secs(60),
    patience: Duration::from_secs(1),
    farewell: Duration::from_secs(2),
};

/// For the hub `barn`, plain, on this port of 127.0.0.1.
pub fn settings(port: u16) -> Settings {
    let broker = Uplink {
        brokers: vec![config::Broker {
            host: "127.0.0.1".into(),
            port,
            tls: None,
        }],
        version: config::MqttVersion::V311,
        return_after: Duration::from_secs(300),
        max_payload: 1 << 20,
        client_id: "telehub-barn".into(),
        username: None,
        password_file: None,
        prefix: "telehub".into(),
        format: Format::Json,
        drain: DrainOrder::LiveFirst,
        inflight: 100,
        ack_timeout: Duration::from_secs(10),
        keep_alive: Duration::from_secs(30),
        pack: 0,
        pack_delay: Duration::from_secs(1),
        topic_dots: config::TopicDots::Keep,
    };
    Settings {
        pace: PACE,
        ..Settings::new(broker, "barn")
    }
}

/// A batch of one reading whose value is the number.
pub fn batch(number: u64) -> Item {
    batch_of(
        number,
        format!(r#"[{{"n":"t","v":{number}}}]"#).into_bytes(),
    )
}

/// A batch of this frame.
pub fn batch_of(seq: u64, frame: Vec<u8>) -> Item {
    Item::Batch(Batch {
        device: "cow".into(),
        stream: "a".into(),
        seq: Some(seq),
        received: telehub::reading::Moment::at(1_700_000_000.0),
        readings: 1,
        encoding: Encoding::Json,
        frame: Bytes::from(frame),
    })
}

/// A device's state.
pub fn presence(state: &'static str, reason: &str) -> Presence {
    Presence {
        state,
        since: telehub::reading::Moment::at(1.0),
        reason: reason.into(),
        model: None,
        firmware: None,
    }
}

pub struct Rig {
    submissions: Option<mpsc::Sender<Submission>>,
    pub events: mpsc::Receiver<Event>,
    pub outbox: Arc<Outbox>,
    pub board: Arc<Board>,
    pub reconnect: watch::Sender<u64>,
    pub stopper: Stopper,
    pub task: JoinHandle<()>,
}

impl Rig {
    /// With channels that hold any window.
    pub fn start(settings: Settings) -> Self {
        Self::with_channels(settings, 20_000)
    }

    /// With channels that hold so many.
    pub fn with_channels(settings: Settings, capacity: usize) -> Self {
        Self::with_commands(settings, capacity, None)
    }

    /// With ends of the ways of commands.
    pub fn with_commands(settings: Settings, capacity: usize, ways: Option<UplinkWays>) -> Self {
        let (submissions, submission_receiver) = mpsc::channel(capacity);
        let (event_sender, events) = mpsc::channel(capacity);
        let (reconnect, reconnect_receiver) = watch::channel(0);
        let (stopper, stop) = stop::channel();
        let outbox = Arc::new(Outbox::default());
        let board = Board::new("barn");
        let task = tokio::spawn(uplink::run(
            settings,
            submission_receiver,
            outbox.clone(),
            event_sender,
            board.clone(),
            reconnect_receiver,
            stop,
            ways,
        ));
        Self {
            submissions: Some(submissions),
            events,
            outbox,
            board,
            reconnect,
            stopper,
            task,
        }
    }

    pub fn submissions(&self) -> mpsc::Sender<Submission> {
        self.submissions.clone().expect("closed already")
    }

    /// Submits a batch whose number is its token.
    pub async fn submit(&self, epoch: u64, token: u64) {
        self.submit_item(epoch, token, batch(token)).await;
    }

    pub async fn submit_item(&self, epoch: u64, token: u64, item: Item) {
        let submission = Submission {
            epoch,
            token,
            lane: Lane::Live,
            item: Arc::new(item),
        };
        let sent = self.submissions().send(submission).await;
        assert!(sent.is_ok(), "the uplink is gone");
    }

    pub async fn event(&mut self) -> Event {
        soon("an event", self.events.recv())
            .await
            .expect("the uplink is gone")
    }

    /// The next event must be `Up`; its epoch.
    pub async fn up(&mut self) -> u64 {
        match self.event().await {
            Event::Up { epoch } => epoch,
            other => panic!("not up: {other:?}"),
        }
    }

    /// The next event must be `Down`; its sentence.
    pub async fn down(&mut self) -> String {
        match self.event().await {
            Event::Down { error, .. } => error,
            other => panic!("not down: {other:?}"),
        }
    }

    /// The next event must be an ack; its token.
    pub async fn acked(&mut self) -> u64 {
        match self.event().await {
            Event::Acked { token, .. } => token,
            other => panic!("not acked: {other:?}"),
        }
    }

    /// No more submissions.
    pub fn close(&mut self) {
        self.submissions = None;
    }

    /// Stops as the hub does and waits for the end.
    pub async fn finish(mut self) {
        self.stopper.stop();
        self.close();
        soon("the uplink's end", self.task).await.unwrap();
    }
}
