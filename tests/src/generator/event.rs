//! Good events: who does what, through which service, with which details.

use chrono::{DateTime, SecondsFormat, Utc};
use rand::Rng;
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use rand_distr::Zipf;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::{Builder, Uuid};

/// The seven types, each with its weight in the traffic and the services that send it.
pub const EVENT_TYPES: [(&str, u32, &[&str]); 7] = [
    ("user_registered", 6, &["auth-service"]),
    ("user_login", 22, &["auth-service", "mobile-gateway"]),
    ("profile_updated", 9, &["profile-service"]),
    ("profile_viewed", 38, &["profile-service", "web-gateway", "mobile-gateway"]),
    ("user_search", 20, &["search-service", "mobile-gateway"]),
    ("user_activated", 3, &["user-service"]),
    ("user_deactivated", 2, &["user-service", "admin-console"]),
];

const GIVEN_NAMES: [&str; 12] = [
    "ada", "grace", "alan", "edsger", "barbara", "donald", "frances", "john", "radia", "leslie", "karen",
    "niklaus",
];
const CITIES: [&str; 8] = ["Lisbon", "Zürich", "Kraków", "Nairobi", "Osaka", "Québec", "Pune", "São Paulo"];
const AGENTS: [&str; 4] = ["Firefox/132 Linux", "Chrome/130 Windows", "Safari/18 macOS", "app/5.4 Android"];

/// An event before it is written as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Event<'a> {
    pub(super) event_type: &'a str,
    pub(super) user_id: Uuid,
    pub(super) service: &'a str,
    pub(super) timestamp: String,
    pub(super) data: Value,
}

impl Event<'_> {
    pub(super) fn to_json(&self) -> String {
        // The fields above are plain values, but serialising is fallible by type; `{}` would be a malformed event and
        // so could not hide among the good ones.
        serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned())
    }
}

/// Makes good events, each different from all others.
#[derive(Debug)]
pub(super) struct Events {
    seed: u64,
    made: u64,
    users: Vec<Uuid>,
    rank: Zipf<f64>,
    types: WeightedIndex<u32>,
}

impl Events {
    pub(super) fn new(
        random: &mut ChaCha8Rng,
        seed: u64,
        users: usize,
        exponent: f64,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            seed,
            made: 0,
            users: (0..users).map(|_| random_uuid(random)).collect(),
            rank: Zipf::new(users as f64, exponent)?,
            types: WeightedIndex::new(EVENT_TYPES.map(|(_, weight, _)| weight))?,
        })
    }

    pub(super) fn next(&mut self, random: &mut ChaCha8Rng, at: DateTime<Utc>) -> Event<'static> {
        let (event_type, _, services) = EVENT_TYPES[self.types.sample(random)];
        let user_id = self.user(random);
        self.made += 1;
        let mut data = details(event_type, random, user_id, &self.users);
        // The request's number is what makes two otherwise equal events two: without it a deduplicated count could
        // not be known beforehand.
        data["request"] = json!(format!("{:x}-{}", self.seed, self.made));
        let service = services[random.random_range(0..services.len())];
        Event {
            event_type,
            user_id,
            service,
            timestamp: at.to_rfc3339_opts(SecondsFormat::Millis, true),
            data,
        }
    }

    fn user(&self, random: &mut ChaCha8Rng) -> Uuid {
        // Ranks are 1 to n; the cast rounds down, and the modulo only guards the edge.
        let rank = self.rank.sample(random) as usize;
        self.users[(rank - 1) % self.users.len()]
    }
}

fn random_uuid(random: &mut ChaCha8Rng) -> Uuid {
    Builder::from_random_bytes(random.random()).into_uuid()
}

fn details(event_type: &str, random: &mut ChaCha8Rng, user: Uuid, users: &[Uuid]) -> Value {
    match event_type {
        "user_registered" => {
            let name = username(user);
            json!({ "email": format!("{name}@example.com"), "username": name, "plan": pick(random, &["free", "pro"]) })
        }
        "user_login" => json!({
            "ip": address(random),
            "agent": pick(random, &AGENTS),
            "method": pick(random, &["password", "passkey", "sso"]),
        }),
        "profile_updated" => json!({
            "fields": [pick(random, &["bio", "avatar", "phone"]), "city"],
            "city": pick(random, &CITIES),
            "revision": random.random_range(1..500),
        }),
        "profile_viewed" => json!({
            "profile_id": users[random.random_range(0..users.len())],
            "source": pick(random, &["search", "feed", "link"]),
        }),
        "user_search" => json!({
            "query": format!("{} {}", pick(random, &GIVEN_NAMES), pick(random, &CITIES)),
            "results": random.random_range(0..400),
            "took_ms": f64::from(random.random_range(10..4_000)) / 10.0,
        }),
        "user_activated" => {
            json!({ "method": pick(random, &["email", "sms"]), "after_seconds": random.random_range(20..90_000) })
        }
        _ => {
            json!({ "reason": pick(random, &["inactive", "requested", "abuse \"report\""]), "permanent": random.random_bool(0.2) })
        }
    }
}

fn pick<'a>(random: &mut ChaCha8Rng, from: &[&'a str]) -> &'a str {
    from.choose(random).copied().unwrap_or_default()
}

/// The same user always has the same name.
fn username(user: Uuid) -> String {
    let number = user.as_u128() % 10_000;
    format!("{}{number}", GIVEN_NAMES[user.as_bytes()[0] as usize % GIVEN_NAMES.len()])
}

/// An address from the blocks reserved for documentation (RFC 5737).
fn address(random: &mut ChaCha8Rng) -> String {
    format!("{}.{}", pick(random, &["192.0.2", "198.51.100", "203.0.113"]), random.random_range(1..255))
}
