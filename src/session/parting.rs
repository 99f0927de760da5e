//! The end of a session that still owes acks: what a device sent before its goodbye is acked
//! before the hub's, as far as it becomes safe in time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::acks::Acks;
use super::ending::Ending;
use super::messages::bad_seq;
use super::unacked::Unacked;
use super::wire::Wire;
use crate::intake::port::Mailbox;
use crate::protocol;
use crate::protocol::message::ToDevice;
use crate::reading::Encoding;
use crate::status::board::DeviceBoard;

/// How long the hub's answer to a close waits for acks. Brokers and disks answer well within it
/// when they are well; a device that sleeps on a battery should not be kept up for longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is left of a session.
pub(super) struct Parting<S> {
    pub(super) wire: Wire<S>,
    pub(super) encoding: Encoding,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) board: Arc<DeviceBoard>,
    pub(super) unsettled: u32,
    pub(super) acks: Acks,
    pub(super) unacked: Unacked,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Parting<S> {
    /// Tells the acks that are due, if the ending leaves somebody to hear them, and ends the
    /// connection.
    pub(super) async fn end(mut self, ending: Ending) {
        if ending.owes_acks() {
            // Time that is up, or a device that is gone, ends it just as well as the last ack.
            let _ = timeout(PATIENCE, self.settle()).await;
        }
        self.wire.close(ending.close()).await;
    }

    /// Until every batch is settled, or the device hears nothing any more.
    async fn settle(&mut self) -> Option<()> {
        self.tell_ack().await?;
        while self.unsettled > 0 {
            let mail = self.mailbox.take().await;
            self.unsettled = self.unsettled.checked_sub(mail.settled)?;
            for refused in mail.refused {
                let reject = ToDevice::Reject(bad_seq(refused));
                self.board
                    .reject(crate::protocol::reject::RejectCode::BadSeq.as_str());
                self.unacked.refused(refused.seq);
                self.say(&reject).await?;
            }
            self.acks
                .add(Instant::now(), mail.settled, mail.ack, self.unsettled);
            self.tell_ack().await?;
            if mail.close.is_some() {
                return None;
            }
        }
        Some(())
    }

    async fn tell_ack(&mut self) -> Option<()> {
        let Some(seq) = self.acks.take() else {
            return Some(());
        };
        let now = Instant::now();
        let board = &self.board;
        self.unacked.upto(seq, |batches, since| {
            board.acked(batches, now.saturating_duration_since(since));
        });
        self.say(&ToDevice::Ack { seq }).await
    }

    async fn say(&mut self, message: &ToDevice) -> Option<()> {
        let bytes = protocol::encode(self.encoding, message);
        self.wire.last_words(self.encoding, bytes).await.ok()
    }
}
