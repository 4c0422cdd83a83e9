//! Which addresses a node gets out of 198.18.0.0/15, the block set aside for tests of networks (RFC 2544).

use std::fmt;
use std::net::Ipv4Addr;

/// The networks of one node: pods 198.18.N.0/24, services 198.19.N.0/24, and a wire to the host of four addresses in
/// 198.19.(128+N).0/30.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    number: u8,
}

/// An IPv4 network, written as `address/length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: Ipv4Addr,
    length: u8,
}

impl Addresses {
    /// How many nodes fit beside each other.
    pub const COUNT: u8 = 128;

    pub(super) fn new(number: u8) -> Self {
        assert!(number < Self::COUNT, "the node number {number} has no network");
        Self { number }
    }

    /// The network of the pods.
    #[must_use]
    pub fn pods(self) -> Network {
        Network { address: Ipv4Addr::new(198, 18, self.number, 0), length: 24 }
    }

    /// The gateway of the pods: the bridge.
    #[must_use]
    pub fn bridge(self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.number, 1)
    }

    /// The network of the services.
    #[must_use]
    pub fn services(self) -> Network {
        Network { address: Ipv4Addr::new(198, 19, self.number, 0), length: 24 }
    }

    /// The service `kubernetes.default`, always the first of the services.
    #[must_use]
    pub fn kubernetes_service(self) -> Ipv4Addr {
        Ipv4Addr::new(198, 19, self.number, 1)
    }

    /// This machine's end of the wire.
    #[must_use]
    pub fn host(self) -> Ipv4Addr {
        Ipv4Addr::new(198, 19, 128 + self.number, 1)
    }

    /// The node's end of the wire.
    #[must_use]
    pub fn node(self) -> Ipv4Addr {
        Ipv4Addr::new(198, 19, 128 + self.number, 2)
    }

    /// The name of the network device at this machine's end.
    #[must_use]
    pub fn link(self) -> String {
        format!("testbed{}", self.number)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_networks_of_any_two_nodes_are_apart_and_in_the_block() {
        let mut seen = std::collections::HashSet::new();
        for number in 0..Addresses::COUNT {
            let addresses = Addresses::new(number);
            let wire = Network { address: addresses.host(), length: 30 };
            for network in [addresses.pods(), addresses.services(), wire] {
                let octets = network.address.octets();
                assert!(octets[0] == 198 && (octets[1] == 18 || octets[1] == 19), "{network}");
                assert!(seen.insert([octets[1], octets[2]]), "{network} is taken twice");
            }
        }
    }
}
