//! The readers of events: who they are, and what waits for each of them.
//!
//! Rooms offer news and never wait. While nobody reads, an offer is one relaxed load. A reader has
//! a queue of its own; when that is full the reader is cut off, because the one thing that must
//! not happen is that the hub waits for a browser.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Notify;

use super::last_batches::Last;
use super::number::{Number, lock};
use super::sampling::Budget;
use crate::clock;
use crate::reading::Batch;

/// Readers at a time: some browsers and terminals, and some that were forgotten.
pub const READERS: usize = 16;

/// Readings a second for a reader that did not say of which device.
pub const SAMPLED: u32 = 20;

/// Readings a second for a reader of one device: a plot of more is a black bar.
pub const SAMPLED_OF_ONE: u32 = 500;

/// News that wait for one reader. Ordinary ones have a handful; 10,000 devices that come back at
/// once make as many changes, within some seconds.
const QUEUE: usize = 4_096;

/// Bytes of these. Most of them are shared by all readers.
const QUEUE_BYTES: usize = 1 << 20;

/// Counted for what has no text yet.
const NEWS_BYTES: usize = 128;

/// Something that happened.
#[derive(Debug, Clone)]
pub enum News {
    /// A device connected, or its connection ended.
    Change {
        /// Unix seconds.
        time: f64,
        /// Its id.
        device: Arc<str>,
        /// Connected.
        online: bool,
        /// Why.
        reason: &'static str,
    },
    /// A device is no longer remembered.
    Forgotten {
        /// Its id.
        id: Arc<str>,
    },
    /// A batch of which some readings are to be shown.
    Reading {
        /// Whose.
        device: Arc<str>,
        /// The batch.
        batch: Last,
        /// How many.
        readings: u32,
    },
    /// Text that is ready, the same for all readers.
    Told(Bytes),
}

impl News {
    fn weight(&self) -> usize {
        NEWS_BYTES
            + match self {
                Self::Reading { batch, .. } => batch.frame.len(),
                Self::Told(text) => text.len(),
                Self::Change { .. } | Self::Forgotten { .. } => 0,
            }
    }
}

#[derive(Debug)]
struct Queue {
    news: VecDeque<News>,
    bytes: usize,
    budget: Budget,
    waker: Option<Waker>,
    closed: bool,
}

#[derive(Debug)]
struct Line {
    device: Option<Box<str>>,
    queue: Mutex<Queue>,
    cut: Arc<Notify>,
}

impl Line {
    fn put(&self, news: News) {
        let mut queue = lock(&self.queue);
        if queue.closed {
            return;
        }
        let bytes = queue.bytes + news.weight();
        if queue.news.len() >= QUEUE || bytes > QUEUE_BYTES {
            drop(queue);
            self.close();
            // Its connection may wait for a write that never ends.
            self.cut.notify_one();
            return;
        }
        queue.bytes = bytes;
        queue.news.push_back(news);
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }

    /// No more news; those that wait are dropped.
    fn close(&self) {
        let mut queue = lock(&self.queue);
        queue.closed = true;
        (queue.news, queue.bytes) = (VecDeque::new(), 0);
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }

    fn offer(&self, batch: &Batch, now: Instant) {
        if self
            .device
            .as_deref()
            .is_some_and(|id| id != &*batch.device)
        {
            return;
        }
        let readings = lock(&self.queue).budget.take(batch.readings, now);
        if readings > 0 {
            self.put(News::Reading {
                device: batch.device.clone(),
                batch: Last {
                    received: clock::corrected(batch.received).wall,
                    encoding: batch.encoding,
                    frame: batch.frame.clone(),
                },
                readings,
            });
        }
    }
}

/// All readers.
#[derive(Debug, Default)]
pub struct Feed {
    readers: AtomicUsize,
    lines: Mutex<Vec<Arc<Line>>>,
    came: Notify,
    closed: AtomicBool,
    dropped: Number,
}

impl Feed {
    /// Whether anybody reads: one relaxed load.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.readers() > 0
    }

    /// Gauge: readers.
    #[must_use]
    pub fn readers(&self) -> usize {
        self.readers.load(Relaxed)
    }

    /// Readers that were cut off because they did not keep up.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Returns once somebody reads. Cancel safe. For one waiter.
    pub async fn watched(&self) {
        while !self.is_watched() {
            self.came.notified().await;
        }
    }

    /// A new reader: of the readings of all devices, or of this one's. `cut` is told when the
    /// reader's connection is to be dropped without further words. `None`: there are
    /// [`READERS`] already, or the hub stops.
    #[must_use]
    pub fn attach(self: &Arc<Self>, device: Option<&str>, cut: Arc<Notify>) -> Option<Reader> {
        let a_second = if device.is_some() {
            SAMPLED_OF_ONE
        } else {
            SAMPLED
        };
        let line = Arc::new(Line {
            device: device.map(Into::into),
            queue: Mutex::new(Queue {
                news: VecDeque::new(),
                bytes: 0,
                budget: Budget::new(a_second, Instant::now()),
                waker: None,
                closed: false,
            }),
            cut,
        });
        let mut lines = lock(&self.lines);
        if lines.len() >= READERS || self.closed.load(Relaxed) {
            return None;
        }
        lines.push(line.clone());
        self.readers.store(lines.len(), Relaxed);
        drop(lines);
        self.came.notify_one();
        Some(Reader {
            feed: self.clone(),
            line,
        })
    }

    /// News for everybody.
    pub fn put(&self, news: &News) {
        if !self.is_watched() {
            return;
        }
        for line in &*lock(&self.lines) {
            line.put(news.clone());
        }
    }

    /// A batch was taken; readers that have room for it get readings of it.
    pub fn offer(&self, batch: &Batch, now: Instant) {
        if !self.is_watched() {
            return;
        }
        for line in &*lock(&self.lines) {
            line.offer(batch, now);
        }
    }

    /// Ends all readers, and takes no more.
    pub fn close(&self) {
        self.closed.store(true, Relaxed);
        for line in &*lock(&self.lines) {
            line.close();
        }
    }
}

/// One reader's end. Dropping it detaches.
#[derive(Debug)]
pub struct Reader {
    feed: Arc<Feed>,
    line: Arc<Line>,
}

impl Reader {
    /// Takes all that waits, at least one; `None`: there will be no more.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<VecDeque<News>>> {
        let mut queue = lock(&self.line.queue);
        if queue.closed {
            return Poll::Ready(None);
        }
        if queue.news.is_empty() {
            queue.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        queue.bytes = 0;
        Poll::Ready(Some(std::mem::take(&mut queue.news)))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut lines = lock(&self.feed.lines);
        lines.retain(|line| !Arc::ptr_eq(line, &self.line));
        self.feed.readers.store(lines.len(), Relaxed);
        let overrun = lock(&self.line.queue).closed && !self.feed.closed.load(Relaxed);
        self.feed.dropped.add(u64::from(overrun));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::reading::{Encoding, Moment};

    fn batch(device: &str, readings: u32) -> Batch {
        Batch {
            device: device.into(),
            stream: "s".into(),
            seq: None,
            received: Moment::at(5.0),
            readings,
            encoding: Encoding::Json,
            frame: Bytes::from_static(b"[]"),
        }
    }

    fn take(reader: &Reader) -> Option<Vec<News>> {
        match reader.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(news) => news.map(Vec::from),
            Poll::Pending => Some(Vec::new()),
        }
    }

    fn shown(reader: &Reader) -> u32 {
        let readings = |news: &News| match news {
            News::Reading { readings, .. } => *readings,
            _ => 0,
        };
        take(reader).unwrap().iter().map(readings).sum()
    }

    #[test]
    fn each_reader_gets_its_share_and_its_device_alone() {
        let feed = Arc::new(Feed::default());
        let now = Instant::now();
        feed.offer(&batch("cow", 1), now);
        let all = feed.attach(None, Arc::default()).unwrap();
        let one = feed.attach(Some("cow"), Arc::default()).unwrap();
        for _ in 0..200 {
            feed.offer(&batch("cow", 3), now);
            feed.offer(&batch("hen", 1), now);
        }
        assert_eq!(shown(&all), SAMPLED);
        assert_eq!(shown(&one), SAMPLED_OF_ONE);
        drop((all, one));
        assert!(!feed.is_watched());
        assert_eq!(feed.dropped(), 0);
    }

    #[test]
    fn a_reader_that_does_not_keep_up_is_cut_off_and_the_others_are_not() {
        let feed = Arc::new(Feed::default());
        let cut = Arc::new(Notify::new());
        let slow = feed.attach(None, cut.clone()).unwrap();
        let quick = feed.attach(None, Arc::default()).unwrap();
        let news = News::Told(Bytes::from(vec![b'x'; 10_000]));
        for _ in 0..1_000 {
            feed.put(&news);
            assert_eq!(take(&quick).unwrap().len(), 1);
        }
        assert!(take(&slow).is_none());
        assert!(was_told(&cut));
        drop(slow);
        assert_eq!((feed.dropped(), feed.readers()), (1, 1));
    }

    fn was_told(cut: &Notify) -> bool {
        let told = std::pin::pin!(cut.notified());
        told.poll(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    }

    #[test]
    fn there_are_so_many_readers_and_none_after_the_end() {
        let feed = Arc::new(Feed::default());
        let mut readers: Vec<_> = (0..READERS)
            .map(|_| feed.attach(None, Arc::default()).unwrap())
            .collect();
        assert!(feed.attach(None, Arc::default()).is_none());
        readers.pop();
        readers.push(feed.attach(None, Arc::default()).unwrap());
        feed.close();
        assert!(readers.iter().all(|reader| take(reader).is_none()));
        drop(readers);
        assert!(feed.attach(None, Arc::default()).is_none());
        assert_eq!(feed.dropped(), 0);
    }
}
