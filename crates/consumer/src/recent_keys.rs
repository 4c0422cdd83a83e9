//! Keys that this process committed lately: most producers send an event twice within moments, and a duplicate that
//! is recognised here costs no database work and keeps the batch on the fast path.
//!
//! A direct-mapped table: one comparison to look up, one store to remember, forgetting by overwriting. It may forget
//! a key (then the unique index finds the duplicate) but never takes a new key for a known one.

const SLOTS: usize = 1 << 16;

/// The last committed keys, as far as they have not been overwritten: 1 MiB.
pub struct RecentKeys {
    slots: Vec<[u8; 16]>,
}

impl RecentKeys {
    /// Knows nothing.
    #[must_use]
    pub fn new() -> Self {
        Self { slots: vec![[0; 16]; SLOTS] }
    }

    /// Whether the key was remembered and not yet overwritten.
    #[must_use]
    pub fn contains(&self, key: &[u8; 16]) -> bool {
        self.slots[Self::slot(key)] == *key
    }

    /// Remembers a key. Only call this when its row is committed.
    pub fn remember(&mut self, key: &[u8; 16]) {
        self.slots[Self::slot(key)] = *key;
    }

    /// Forgets everything: after a lost connection the database may be another one, or an older state of it.
    pub fn clear(&mut self) {
        self.slots.fill([0; 16]);
    }

    /// The key's last bytes are a hash already.
    fn slot(key: &[u8; 16]) -> usize {
        usize::from(u16::from_be_bytes([key[14], key[15]]))
    }
}

impl Default for RecentKeys {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_until_another_takes_its_place_and_never_mistaken() {
        let mut keys = RecentKeys::new();
        let (first, mut second) = ([1; 16], [1; 16]);
        second[0] = 2;
        keys.remember(&first);
        assert!(keys.contains(&first) && !keys.contains(&second));
        keys.remember(&second);
        assert!(!keys.contains(&first) && keys.contains(&second));
        keys.clear();
        assert!(!keys.contains(&second));
    }
}
