//! How a dead letter is called: by the number of its row, or by its place in the dead-letter topic.

use std::fmt;
use std::str::FromStr;

/// The name of a dead letter, as `list` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LetterId {
    /// The id of its row.
    Row(i64),
    /// Partition and offset in the dead-letter topic.
    Place(i32, i64),
}

impl LetterId {
    /// The id of its row, if it is in a table.
    pub(super) fn row(self) -> Option<i64> {
        match self {
            Self::Row(id) => Some(id),
            Self::Place(..) => None,
        }
    }

    /// Its place, if it is in a topic.
    pub(super) fn place(self) -> Option<(i32, i64)> {
        match self {
            Self::Row(_) => None,
            Self::Place(partition, offset) => Some((partition, offset)),
        }
    }
}

impl fmt::Display for LetterId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Row(id) => id.to_string(),
            Self::Place(partition, offset) => format!("{partition}:{offset}"),
        };
        formatter.pad(&text)
    }
}

impl FromStr for LetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let id = match text.split_once(':') {
            None => text.parse().ok().map(Self::Row),
            Some((partition, offset)) => partition
                .parse()
                .ok()
                .zip(offset.parse().ok())
                .map(|(partition, offset)| Self::Place(partition, offset)),
        };
        id.ok_or_else(|| {
            format!("`{text}` is no id of a dead letter; `list` prints them, such as 77 or 0:77")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_it_is_printed() {
        for id in [LetterId::Row(77), LetterId::Place(0, 77)] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        assert_eq!(format!("{:>6}", LetterId::Place(1, 2)), "   1:2");
        for wrong in ["", "x", "1:", ":1", "1:2:3"] {
            assert!(wrong.parse::<LetterId>().is_err(), "{wrong}");
        }
    }
}
