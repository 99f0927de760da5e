//! The table of opening handshakes: how many there may be, and which one makes room for a newcomer.
//!
//! A newcomer always gets in. When a limit is reached, the oldest handshake within that limit that
//! has not sent a byte yet makes room, and if all have sent something, the oldest of these. So
//! whoever opens connections and says nothing holds nothing against a device, which sends its
//! request as soon as it is connected. A handshake whose credentials are accepted leaves the table:
//! from then on it has a seat in the roster. Pure.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use super::attempts::Origin;

/// Handshakes in all: each may hold 16 KiB of a request's head and, with TLS, some 40 KiB more, so
/// that all of them doing their worst take 14 MiB. At the site of a thousand devices whose power
/// comes back this is a quarter of them at the same moment, and one takes milliseconds.
pub(super) const ALL: usize = 256;

/// Handshakes of one address: a whole site may be behind one gateway.
pub(super) const OF_ADDRESS: usize = 64;

/// Handshakes of one IPv6 /64. One machine has all addresses of it if it wants to, and so has a
/// whole network: half of the table, so that neither takes the rest's place.
pub(super) const OF_NETWORK: usize = 128;

/// A handshake in the table.
pub(super) type Id = u64;

/// Handshakes that share a limit, oldest first: ids only grow.
#[derive(Debug, Default)]
struct Group {
    silent: BTreeSet<Id>,
    talking: BTreeSet<Id>,
}

impl Group {
    fn len(&self) -> usize {
        self.silent.len() + self.talking.len()
    }

    fn first_to_go(&self) -> Option<Id> {
        self.silent.first().or(self.talking.first()).copied()
    }

    fn remove(&mut self, id: Id) {
        let _ = self.silent.remove(&id) || self.talking.remove(&id);
    }
}

/// Who shares a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Scope {
    Address(IpAddr),
    Network(Origin),
}

/// All handshakes that are open.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    last: Id,
    all: Group,
    groups: HashMap<Scope, Group>,
    from: HashMap<Id, IpAddr>,
}

/// The scopes of an address, the narrowest first, with their limits.
fn scopes(address: IpAddr) -> impl Iterator<Item = (Scope, usize)> {
    let origin = Origin::from(address);
    let network = matches!(origin, Origin::V6(_)).then_some((Scope::Network(origin), OF_NETWORK));
    [(Scope::Address(address), OF_ADDRESS)]
        .into_iter()
        .chain(network)
}

impl Handshakes {
    /// A handshake begins. Returns its id and, when a limit is reached, the one that has to make
    /// room; that one is no longer in the table.
    pub(super) fn begin(&mut self, address: IpAddr) -> (Id, Option<Id>) {
        let address = address.to_canonical();
        let full = |(scope, limit)| {
            let group = self.groups.get(&scope)?;
            (group.len() >= limit).then(|| group.first_to_go())
        };
        // Whoever makes room in a narrow scope does so in the wider ones as well.
        let over = scopes(address)
            .find_map(full)
            .or_else(|| (self.all.len() >= ALL).then(|| self.all.first_to_go()));
        let victim = over.flatten();
        if let Some(victim) = victim {
            self.end(victim);
        }
        self.last += 1;
        self.from.insert(self.last, address);
        self.each(address, |group, id| _ = group.silent.insert(id), self.last);
        (self.last, victim)
    }

    /// Its first bytes have come.
    pub(super) fn spoke(&mut self, id: Id) {
        let Some(address) = self.from.get(&id).copied() else {
            return;
        };
        let spoke = |group: &mut Group, id| {
            if group.silent.remove(&id) {
                group.talking.insert(id);
            }
        };
        self.each(address, spoke, id);
    }

    /// It is over: accepted, refused, lost or pushed out. One that has ended already is not minded.
    pub(super) fn end(&mut self, id: Id) {
        if let Some(address) = self.from.remove(&id) {
            self.each(address, Group::remove, id);
        }
        debug_assert_eq!(self.all.len(), self.from.len(), "each is counted once");
    }

    /// Does something in every group of an address.
    fn each(&mut self, address: IpAddr, change: impl Fn(&mut Group, Id), id: Id) {
        change(&mut self.all, id);
        for (scope, _) in scopes(address) {
            let group = self.groups.entry(scope).or_default();
            change(group, id);
            if group.len() == 0 {
                self.groups.remove(&scope);
            }
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.all.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn v4(n: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + n).into())
    }

    fn v6(network: u16, host: u16) -> IpAddr {
        IpAddr::V6([0xfd00, 0, 0, network, 0, 0, 0, host].into())
    }

    #[test]
    fn one_address_at_its_limit_pushes_out_its_own_oldest_silent_one() {
        let mut table = Handshakes::default();
        let (other, _) = table.begin(v4(0));
        let first = table.begin(v4(1)).0;
        for _ in 1..OF_ADDRESS {
            assert_eq!(table.begin(v4(1)).1, None);
        }
        // The oldest has said something, so the second oldest goes.
        table.spoke(first);
        assert_eq!(table.begin(v4(1)).1, Some(first + 1));
        assert_eq!(table.len(), OF_ADDRESS + 1);
        table.end(other);
        assert_eq!(table.len(), OF_ADDRESS);
    }

    #[test]
    fn when_all_talk_the_oldest_of_them_goes() {
        let mut table = Handshakes::default();
        let all: Vec<_> = (0..OF_ADDRESS).map(|_| table.begin(v4(1)).0).collect();
        for id in &all {
            table.spoke(*id);
        }
        assert_eq!(table.begin(v4(1)).1, Some(all[0]));
    }

    #[test]
    fn many_addresses_push_out_the_oldest_of_all() {
        let mut table = Handshakes::default();
        let all: Vec<_> = (0..250).map(|n| table.begin(v4(n)).0).collect();
        for n in 0..6 {
            assert_eq!(table.begin(v4(n)).1, None);
        }
        table.spoke(all[0]);
        assert_eq!(table.begin(v4(1_000)).1, Some(all[1]));
        assert_eq!(table.len(), ALL);
    }

    #[test]
    fn an_ipv6_network_has_a_larger_budget_than_each_of_its_addresses() {
        let mut table = Handshakes::default();
        let first = table.begin(v6(1, 1)).0;
        for _ in 1..OF_ADDRESS {
            assert_eq!(table.begin(v6(1, 1)).1, None);
        }
        // Its neighbour still has room, and gets it without anybody's loss.
        assert_eq!(table.begin(v6(1, 2)).1, None);
        assert_eq!(table.begin(v6(1, 1)).1, Some(first));
        for host in 3.. {
            let (id, victim) = table.begin(v6(1, host));
            if let Some(victim) = victim {
                assert_eq!(victim, first + 1);
                assert!(table.len() == OF_NETWORK && id > victim);
                break;
            }
        }
        assert_eq!(table.begin(v6(2, 1)).1, None, "another network");
    }

    #[test]
    fn an_ipv4_address_counts_the_same_in_both_its_forms() {
        let mut table = Handshakes::default();
        let mapped = |n: u32| "::ffff:10.0.0.1".parse().unwrap_or(v4(n));
        let first = table.begin(v4(1)).0;
        for _ in 1..OF_ADDRESS {
            table.begin(mapped(1));
        }
        assert_eq!(table.begin(mapped(1)).1, Some(first));
    }

    #[test]
    fn nothing_is_left_of_handshakes_that_are_over() {
        let mut table = Handshakes::default();
        let mut open = Vec::new();
        for n in 0..10_000 {
            let (id, _) = table.begin(if n % 2 == 0 { v4(n % 900) } else { v6(7, 7) });
            table.spoke(id);
            open.push(id);
            assert!(table.len() <= ALL);
        }
        for id in open {
            table.end(id);
        }
        assert!(table.groups.is_empty() && table.from.is_empty() && table.len() == 0);
    }
}
