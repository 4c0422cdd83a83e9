//! Records that cannot be stored as events: why, and everything needed to look at them or to replay them.

mod record;

pub use record::{Headers, Opened, Origin, names, open, seal, seal_without_content};

/// Why a record cannot be stored: a closed set, so that metric labels stay bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The record has no value, or an empty one.
    Tombstone,
    /// The value is not JSON, or not UTF-8.
    InvalidJson,
    /// A field of the event is not there.
    MissingField,
    /// A field has the wrong type or an unusable value.
    InvalidField,
    /// `user_id` is not a UUID.
    InvalidUserId,
    /// `timestamp` is not RFC 3339.
    InvalidTimestamp,
    /// Text contains U+0000.
    NulCharacter,
    /// Text contains an unpaired surrogate.
    InvalidUnicode,
    /// `event_type` or `service` does not fit its column.
    FieldTooLong,
    /// A number is beyond what PostgreSQL's numeric can hold.
    NumberOutOfRange,
    /// JSON is nested too deeply.
    NestingTooDeep,
    /// The value is larger than allowed.
    TooLarge,
    /// PostgreSQL refused the row.
    RefusedByDatabase,
}

impl Reason {
    /// Every reason, for the documentation and for tests.
    pub const ALL: [Self; 13] = [
        Self::Tombstone,
        Self::InvalidJson,
        Self::MissingField,
        Self::InvalidField,
        Self::InvalidUserId,
        Self::InvalidTimestamp,
        Self::NulCharacter,
        Self::InvalidUnicode,
        Self::FieldTooLong,
        Self::NumberOutOfRange,
        Self::NestingTooDeep,
        Self::TooLarge,
        Self::RefusedByDatabase,
    ];

    /// Whether the event's type may be read from such a record: it is JSON, and not too large to look at.
    #[must_use]
    pub const fn leaves_a_type(self) -> bool {
        !matches!(self, Self::Tombstone | Self::InvalidJson | Self::TooLarge)
    }

    /// The reason as metric label and as value of `dead_letters.reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tombstone => "tombstone",
            Self::InvalidJson => "invalid_json",
            Self::MissingField => "missing_field",
            Self::InvalidField => "invalid_field",
            Self::InvalidUserId => "invalid_user_id",
            Self::InvalidTimestamp => "invalid_timestamp",
            Self::NulCharacter => "nul_character",
            Self::InvalidUnicode => "invalid_unicode",
            Self::FieldTooLong => "field_too_long",
            Self::NumberOutOfRange => "number_out_of_range",
            Self::NestingTooDeep => "nesting_too_deep",
            Self::TooLarge => "too_large",
            Self::RefusedByDatabase => "refused_by_database",
        }
    }
}

/// Why a payload is no event.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The kind of fault.
    pub reason: Reason,
    /// A sentence for the person who looks at the dead letter.
    pub detail: String,
}

impl Rejection {
    /// A rejection with its sentence.
    #[must_use]
    pub fn new(reason: Reason, detail: String) -> Self {
        Self { reason, detail }
    }
}

/// A record as Kafka delivered it, with the reason why it is not in the events table.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Partition of the record.
    pub partition: i32,
    /// Offset of the record.
    pub offset: i64,
    /// The kind of fault.
    pub reason: Reason,
    /// A sentence for the person who looks at it.
    pub detail: String,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's value.
    pub payload: Option<Vec<u8>>,
    /// The record's headers in the form of [`crate::batch::encode_headers`]; empty when there are none.
    pub headers: Vec<u8>,
    /// The record's timestamp in milliseconds, if it has one.
    pub timestamp_millis: Option<i64>,
    /// Whether Kafka has it, where dead letters go to a topic.
    pub delivered: bool,
}
