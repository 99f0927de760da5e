//! `/metrics`: every number of the board, in the Prometheus text format. `docs/metrics.md` lists
//! them; a test holds the list against this.

mod hub;
mod per_device;
pub(super) mod text;

use self::text::Text;
use crate::status::board::Board;

/// The answer. `per_device`: with metrics of each device, which are as many as there are devices.
pub(super) fn metrics(board: &Board, per_device: bool) -> String {
    let mut text = Text::default();
    hub::itself(&mut text, board);
    hub::devices(&mut text, board);
    hub::uplink(&mut text, board);
    hub::commands(&mut text, board);
    hub::spool(&mut text, board);
    hub::process(&mut text, board);
    if per_device {
        per_device::devices(&mut text, board);
    }
    text.finish()
}
