//! Where stored items are after some were taken out of their groups.
//!
//! Pure. The spool gives up batches in the middle of groups; those behind them move up. Whoever
//! holds a [`Loc`] asks here for the new one.

use std::collections::HashMap;

use crate::spool::{Compacted, GroupId, Loc};

/// See the module.
#[derive(Debug, Default)]
pub struct Moved(HashMap<GroupId, Vec<u32>>);

impl Moved {
    /// From what the spool says.
    #[must_use]
    pub fn new(groups: Vec<Compacted>) -> Self {
        Self(
            groups
                .into_iter()
                .map(|compacted| (compacted.group, compacted.gone))
                .collect(),
        )
    }

    /// Where the item is now; `None`: it is gone.
    #[must_use]
    pub fn to(&self, loc: Loc) -> Option<Loc> {
        let Some(gone) = self.0.get(&loc.group) else {
            return Some(loc);
        };
        let before = match gone.binary_search(&loc.index) {
            Ok(_) => return None,
            Err(before) => u32::try_from(before).unwrap_or(u32::MAX),
        };
        Some(Loc {
            group: loc.group,
            index: loc.index.saturating_sub(before),
        })
    }

    /// The groups concerned, and what is gone from each.
    pub fn groups(&self) -> impl Iterator<Item = (GroupId, &[u32])> {
        self.0.iter().map(|(group, gone)| (*group, &gone[..]))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn items_are_found_where_a_shortened_list_has_them(
            mut gone in prop::collection::btree_set(0..20u32, 0..20),
            len in 0..20u32,
        ) {
            gone.retain(|at| *at < len);
            let group = GroupId(7);
            let moved = Moved::new(vec![Compacted { group, gone: gone.iter().copied().collect() }]);
            let kept: Vec<u32> = (0..len).filter(|at| !gone.contains(at)).collect();
            for index in 0..len {
                let to = moved.to(Loc { group, index }).map(|loc| kept[loc.index as usize]);
                prop_assert_eq!(to, (!gone.contains(&index)).then_some(index));
            }
            let other = Loc { group: GroupId(8), index: 3 };
            prop_assert_eq!(moved.to(other), Some(other));
        }
    }
}
