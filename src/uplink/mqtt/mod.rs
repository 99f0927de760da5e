//! MQTT on a socket of our own, over rumqttc's packets: the only files that name rumqttc.
//!
//! rumqttc's own event loop flushes each publish by itself and tells packet ids only after the
//! write. Here everything that is ready goes out in one write, one read brings as many
//! acknowledgements as there are, and ids are given before anything is written. With that the
//! duties of a client are ours:
//!
//! | duty | MQTT 3.1.1, MQTT 5 | where | test |
//! |---|---|---|---|
//! | CONNECT first, CONNACK awaited, no longer than `patience` | 3.1.0-1, 3.2.0-1 | `connect` | `a_broker_that_hangs_in_the_handshake_is_given_up` |
//! | nothing but CONNACK is taken for an answer | 3.2.0-1 | `connect` | `garbage_costs_the_connection_and_nothing_else` |
//! | packets that come in pieces | 2.2.3, 2.1.4 | `frames` | `every_packet_is_understood_however_it_is_cut` |
//! | a remaining length of more than four bytes is malformed | 2.2.3, 1.5.5-1 | `frames` | `a_length_that_never_ends_is_an_error` |
//! | a packet that is too large is an error; a PUBLISH is skipped | 3.1.2-25 (5) | `frames` | `a_message_that_is_too_large_is_skipped_without_keeping_it` |
//! | malformed packets never panic | 4.8, 4.13 | `incoming` | `no_bytes_of_a_broker_make_it_panic` |
//! | a packet id is not used again while it is out | 2.3.1-2, 2.2.1-3 | `ledger` | `every_record_is_acked_once_and_ids_never_collide` |
//! | a PUBACK for an id that is not out ends the connection | 4.3.2-2 | `ledger` | `an_ack_for_an_id_that_is_not_out_is_a_breach` |
//! | no more publishes out than Receive Maximum | 3.3.4-9 (5) | `connection` | `no_more_is_out_than_the_broker_receives` |
//! | no packet larger than Maximum Packet Size | 3.2.2-15 (5) | `publish` | `what_is_larger_than_the_broker_takes_is_not_written` |
//! | no retain flag where Retain Available is 0 | 3.2.2-14 (5) | `publish` | `statuses_are_not_retained_where_the_broker_cannot` |
//! | incoming QoS 1 is acknowledged | 3.3.4-1 | `wire` | `a_message_with_qos_1_is_acknowledged_asked_for_or_not` |
//! | PINGREQ within the keep-alive, the server's where it names one | 3.1.2-23, 3.2.2-21 (5) | `wire` | `what_connack_allows_holds_for_that_connection_and_no_longer` |
//! | PINGRESP within one more keep-alive | 3.1.2.10, 3.12.4 | `wire` | `a_broker_that_answers_no_pings_is_left_after_two_keep_alives` |
//! | a write that the network does not take ends the connection after `patience` | – | `wire` | `a_broker_that_stops_reading_is_left_and_memory_stays_bounded` |
//! | DISCONNECT is the last packet, and the will is dropped by it | 3.14.4-1 | `wire` | `the_last_words_are_offline_and_disconnect` |
//! | DISCONNECT of the broker: its reason is told | 3.14 (5) | `incoming` | `a_disconnect_of_the_broker_says_why` |
//! | what was read before an error is delivered before it | – | `wire` | `pubacks_that_came_just_before_the_close_count_but_for_the_last` |

mod connect;
mod frames;
mod incoming;
mod packets;
mod publish;
mod stream;
mod wire;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

use super::failure::Failure;
use super::route::Target;
use super::terms::Verdict;
use super::transport::{self, Attempt, Missed};
use super::{Settings, credentials};
pub(super) use wire::Wire;

/// One address of a broker gets this long for TCP, TLS and CONNACK when there are others: one that
/// drops every packet must not use up the time of those that answer.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(5);

/// For a name server. The resolver has timeouts of its own, which may be longer.
const RESOLVE: Duration = Duration::from_secs(10);

/// Addresses of one name that are tried. A name with more of them is a pool, in which each is as
/// good as the others.
const ADDRESSES: usize = 8;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Library;

/// What the files say.
pub(super) struct Prepared {
    password: Option<String>,
    tls: Option<Arc<rustls::ClientConfig>>,
}

fn prepare(settings: &Settings, target: &Target) -> Result<Prepared, Failure> {
    let password = match &settings.broker.password_file {
        Some(file) => Some(credentials::password(file).map_err(Failure::standing)?),
        None => None,
    };
    let tls = match &target.tls {
        Some(tls) => Some(credentials::tls(tls).map_err(Failure::standing)?),
        None => None,
    };
    Ok(Prepared { password, tls })
}

/// Reads the files, which may block.
async fn prepared(settings: &Arc<Settings>, target: &Target) -> Result<Prepared, Failure> {
    let (settings, target) = (settings.clone(), target.clone());
    tokio::task::spawn_blocking(move || prepare(&settings, &target))
        .await
        .map_err(|error| Failure::passing(format!("the connect was broken off: {error}")))?
}

/// How long one address gets.
fn patience(settings: &Settings, target: &Target) -> Duration {
    let whole = settings.pace.patience.max(Duration::from_secs(1));
    if target.alone {
        whole
    } else {
        whole.min(ADDRESS_PATIENCE)
    }
}

impl transport::Dial for Library {
    type Wire = Wire;

    async fn resolve(&self, target: &Target) -> Result<Vec<Target>, Failure> {
        let name = target.name();
        let found = timeout(RESOLVE, lookup_host((target.host.as_str(), target.port))).await;
        let mut addresses = match found {
            Ok(Ok(addresses)) => addresses.take(ADDRESSES).collect::<Vec<_>>(),
            Ok(Err(error)) => {
                return Err(Failure::passing(format!(
                    "cannot connect to {name}: {error}"
                )));
            }
            Err(_) => {
                let seconds = RESOLVE.as_secs();
                return Err(Failure::passing(format!(
                    "cannot connect to {name}: the name server did not answer within {seconds} s"
                )));
            }
        };
        addresses.dedup();
        if addresses.is_empty() {
            return Err(Failure::passing(format!(
                "cannot connect to {name}: the name has no address"
            )));
        }
        let alone = addresses.len() == 1;
        let at = |address| Target {
            address: Some(address),
            alone: alone && target.alone,
            ..target.clone()
        };
        Ok(addresses.into_iter().map(at).collect())
    }

    async fn dial(&self, settings: &Arc<Settings>, attempt: &Attempt) -> Result<Wire, Missed> {
        let open = |failure| Missed {
            failure,
            version: Verdict::Open,
        };
        let prepared = prepared(settings, &attempt.target).await.map_err(open)?;
        let patience = patience(settings, &attempt.target);
        let connect = connect::connect(settings, prepared, attempt);
        timeout(patience, connect).await.unwrap_or_else(|_| {
            let (name, seconds) = (attempt.target.name(), patience.as_secs());
            Err(open(Failure::passing(format!(
                "{name} did not answer within {seconds} s"
            ))))
        })
    }

    async fn knock(&self, settings: &Arc<Settings>, target: &Target) -> bool {
        let Ok(prepared) = prepared(settings, target).await else {
            return false;
        };
        let knock = connect::open(prepared.tls, target);
        matches!(timeout(patience(settings, target), knock).await, Ok(Ok(_)))
    }

    fn chance(&self) -> u64 {
        // The keys of a hasher are random.
        RandomState::new().build_hasher().finish()
    }
}
