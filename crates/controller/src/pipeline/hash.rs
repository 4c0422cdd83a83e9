//! Short hashes: of configuration, for names and annotations, and of what is only compared.

/// Hashes a sequence of texts; each counts with its length, so that no two sequences look alike.
#[derive(Clone)]
pub(crate) struct Hasher(blake3::Hasher);

impl Hasher {
    pub(crate) fn new() -> Self {
        Self(blake3::Hasher::new())
    }

    pub(crate) fn add(&mut self, text: &str) -> &mut Self {
        self.0.update(&(text.len() as u64).to_le_bytes());
        self.0.update(text.as_bytes());
        self
    }

    /// Sixteen hexadecimal digits.
    pub(crate) fn finish(&self) -> String {
        let mut digits = self.0.finalize().to_hex().to_string();
        digits.truncate(16);
        digits
    }
}

/// The first bytes of a text's BLAKE3 hash: eight tell whether an object has changed, sixteen tell all texts of a cluster apart.
pub(crate) fn digest<const BYTES: usize>(text: &str) -> [u8; BYTES] {
    let mut digest = [0; BYTES];
    blake3::Hasher::new().update(text.as_bytes()).finalize_xof().fill(&mut digest);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_the_beginning_of_the_hash() {
        assert_eq!(digest::<16>("a"), blake3::hash(b"a").as_bytes()[..16]);
        assert_ne!(digest::<8>("a"), digest::<8>("b"));
    }

    #[test]
    fn the_borders_between_texts_count() {
        let hash = |texts: &[&str]| {
            let mut hasher = Hasher::new();
            for text in texts {
                hasher.add(text);
            }
            hasher.finish()
        };
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_eq!(hash(&["ab", "c"]), hash(&["ab", "c"]));
        assert_eq!(hash(&[]).len(), 16);
    }
}
