//! Ports that no other test process gets.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

use anyhow::{Result, bail};

use crate::lock;

/// Below the range from which Linux takes the ports of outgoing connections, so that none of those gets in the way
/// while a server is down.
const RANGE: Range<u16> = 20_000..28_000;

/// A port reserved for as long as this value lives, whether or not something listens on it.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Reserves a free port.
    ///
    /// # Errors
    /// When every port of the range is taken, or the locks cannot be written.
    pub fn reserve() -> Result<Self> {
        for number in RANGE {
            if let Some(lock) = lock::take(&format!("port-{number}"))?
                && TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).is_ok()
            {
                return Ok(Self { number, _lock: lock });
            }
        }
        bail!("no port is free between {} and {}", RANGE.start, RANGE.end)
    }

    /// The port's number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_port_is_not_given_twice() {
        let first = Port::reserve().unwrap();
        let second = Port::reserve().unwrap();
        assert_ne!(first.number(), second.number());
    }
}
