//! Times at which more consumers run than lag alone would keep.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// One field of a cron expression: `*`, a number or a range, each but a single number with a step, in a list.
macro_rules! field {
    ($value:literal) => {
        concat!(
            "([*](/[1-9][0-9]?)?|",
            $value,
            "(-",
            $value,
            "(/[1-9][0-9]?)?)?)",
            "(,([*](/[1-9][0-9]?)?|",
            $value,
            "(-",
            $value,
            "(/[1-9][0-9]?)?)?))*"
        )
    };
}

/// Five fields: minute, hour, day of month, month, day of week.
const CRON_RULE: &str = concat!(
    "self.matches('(?i)^",
    field!("[0-5]?[0-9]"),
    " ",
    field!("([01]?[0-9]|2[0-3])"),
    " ",
    field!("(0?[1-9]|[12][0-9]|3[01])"),
    " ",
    field!("(0?[1-9]|1[0-2]|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"),
    " ",
    field!("([0-7]|sun|mon|tue|wed|thu|fri|sat)"),
    "$')"
);
const CRON_MESSAGE: &str = "`start` and `end` must be cron expressions of five fields (minute, hour, day of month, month, day of week), for example `0 8 * * 1-5` for eight o'clock on working days";

/// A window of time in which there are more consumers than lag alone would keep.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.start != self.end").message(
    "`start` and `end` must differ: the window is open from the one until the other"
))]
pub struct Schedule {
    /// Name, shown where the schedule decides the number of consumers. Example: `working-hours`.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message(
        "`name` of a schedule must hold only lower-case letters, digits and `-`, with a letter or digit at both ends"
    ))]
    pub name: String,

    /// When the window opens: a cron expression of five fields. Begin before the load does: consumers take some seconds to start. Example: `50 7 * * 1-5`.
    #[schemars(length(min = 9, max = 100))]
    #[x_kube(validation = Rule::new(CRON_RULE).message(CRON_MESSAGE))]
    pub start: String,

    /// When the window closes: a cron expression of five fields. Example: `0 18 * * 1-5`.
    #[schemars(length(min = 9, max = 100))]
    #[x_kube(validation = Rule::new(CRON_RULE).message(CRON_MESSAGE))]
    pub end: String,

    /// Time zone of both, by its name in the IANA database, daylight saving time included. Default: `UTC`. Example: `Europe/Berlin`.
    #[serde(default = "default_time_zone")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z]+[A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$')").message(
        "`timeZone` must be a name of the IANA time zone database, for example Europe/Berlin"
    ))]
    pub time_zone: String,

    /// Fewest consumers while the window is open. Where windows overlap, the highest number counts.
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: i32,
}

fn default_time_zone() -> String {
    "UTC".to_owned()
}
