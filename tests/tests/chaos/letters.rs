//! Dead letters, in their table or in their topic, beside the records that they came from.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use sqlx::PgConnection;

use crate::verdict::{Place, few};

/// Key and value of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Original {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

impl Original {
    pub(crate) fn of(message: &BorrowedMessage<'_>) -> Self {
        Self { key: message.key().map(<[u8]>::to_vec), value: message.payload().map(<[u8]>::to_vec) }
    }
}

/// Letters by the place of the record that each came from; more than one for a place where there are copies.
#[derive(Debug, Default)]
pub(crate) struct Letters(BTreeMap<Place, Vec<Original>>);

impl Letters {
    /// Those of the table.
    pub(crate) async fn of_table(connection: &mut PgConnection) -> Result<Self> {
        type Row = (i32, i64, Option<Vec<u8>>, Option<Vec<u8>>);
        let rows: Vec<Row> = sqlx::query_as("SELECT partition, \"offset\", key, payload FROM dead_letters")
            .fetch_all(connection)
            .await?;
        let mut letters = Self::default();
        for (partition, offset, key, value) in rows {
            letters.insert((partition, offset), Original { key, value });
        }
        Ok(letters)
    }

    /// Adds one of the topic.
    pub(crate) fn add(&mut self, message: &BorrowedMessage<'_>) -> Result<()> {
        let number = |name: &str| -> Result<i64> {
            let value =
                header(message, name).with_context(|| format!("a dead letter has no header {name}"))?;
            Ok(std::str::from_utf8(value)?.parse()?)
        };
        let place = (i32::try_from(number("dead-letter-partition")?)?, number("dead-letter-offset")?);
        self.insert(place, Original::of(message));
        Ok(())
    }

    fn insert(&mut self, place: Place, original: Original) {
        self.0.entry(place).or_default().push(original);
    }

    /// Whether each malformed record is a letter, as it was, and nothing else is; returns how many are there again.
    ///
    /// # Errors
    /// What is missing, foreign or altered, with the first few places.
    pub(crate) fn check(&self, malformed: &BTreeMap<Place, Original>) -> Result<usize> {
        let missing = few(malformed.keys().filter(|place| !self.0.contains_key(place)), |place| place);
        let foreign = few(self.0.keys().filter(|place| !malformed.contains_key(place)), |place| place);
        let is_altered = |place: &Place, letters: &[Original]| {
            malformed.get(place).is_some_and(|original| letters.iter().any(|letter| letter != original))
        };
        let altered = few(self.0.iter().filter(|(place, letters)| is_altered(place, letters)), |it| it.0);
        ensure!(
            missing.0 == 0 && foreign.0 == 0 && altered.0 == 0,
            "of {} malformed records {} are no dead letters {:?}; {} dead letters were good records {:?}, {} hold other \
             bytes {:?}",
            malformed.len(),
            missing.0,
            missing.1,
            foreign.0,
            foreign.1,
            altered.0,
            altered.1
        );
        Ok(self.0.values().map(|letters| letters.len() - 1).sum())
    }
}

/// The value of the last header of that name.
pub(crate) fn header<'a>(message: &'a BorrowedMessage<'_>, name: &str) -> Option<&'a [u8]> {
    message.headers()?.iter().filter(|header| header.key == name).last()?.value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn original(value: &str) -> Original {
        Original { key: None, value: Some(value.as_bytes().to_vec()) }
    }

    fn letters(of: &[(Place, &str)]) -> Letters {
        let mut letters = Letters::default();
        of.iter().for_each(|(place, value)| letters.insert(*place, original(value)));
        letters
    }

    #[test]
    fn letters_are_those_records_and_no_others_and_copies_are_counted() {
        let malformed = BTreeMap::from([((0, 1), original("a")), ((0, 2), original("b"))]);
        let check = |of: &[(Place, &str)]| letters(of).check(&malformed);
        assert_eq!(check(&[((0, 1), "a"), ((0, 2), "b")]).unwrap(), 0);
        assert_eq!(check(&[((0, 1), "a"), ((0, 2), "b"), ((0, 1), "a")]).unwrap(), 1);
        for wrong in [
            vec![((0, 1), "a")],
            vec![((0, 1), "a"), ((0, 2), "B")],
            vec![((0, 1), "a"), ((0, 2), "b"), ((0, 2), "c")],
            vec![((0, 1), "a"), ((0, 2), "b"), ((1, 1), "a")],
        ] {
            check(&wrong).unwrap_err();
        }
    }
}
