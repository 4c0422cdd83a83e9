//! The `server.properties` of a broker, as text.

use std::path::PathBuf;

use anyhow::Result;

use super::KafkaOptions;
use crate::port::Port;

/// One broker's identity and places.
#[derive(Debug)]
pub(super) struct Broker {
    pub(super) id: u16,
    pub(super) ports: Ports,
    pub(super) folder: PathBuf,
}

/// The ports of a broker's listeners.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) host: Port,
    pub(super) pods: Port,
    pub(super) controller: Port,
    /// One for each of the options' listeners.
    pub(super) listeners: Vec<Port>,
}

impl Ports {
    pub(super) fn reserve(listeners: usize) -> Result<Self> {
        Ok(Self {
            host: Port::reserve()?,
            pods: Port::reserve()?,
            controller: Port::reserve()?,
            listeners: (0..listeners).map(|_| Port::reserve()).collect::<Result<_>>()?,
        })
    }
}

impl Broker {
    pub(super) fn properties_file(&self) -> PathBuf {
        self.folder.join("server.properties")
    }
}

/// Renders the properties of `broker`, one of `all`; the options' own properties come last and so win.
pub(super) fn render(broker: &Broker, all: &[Broker], options: &KafkaOptions) -> String {
    let replicas = options.brokers.min(3);
    let voters: Vec<_> = all
        .iter()
        .map(|voter| format!("{}@127.0.0.1:{}", voter.id, voter.ports.controller.number()))
        .collect();
    let mut listeners = vec![format!("HOST://127.0.0.1:{}", broker.ports.host.number())];
    listeners.extend(
        options.pod_address.map(|address| format!("PODS://{address}:{}", broker.ports.pods.number())),
    );
    let mut protocols = "HOST:PLAINTEXT,PODS:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned();
    for (listener, port) in options.listeners.iter().zip(&broker.ports.listeners) {
        listeners.push(format!("{}://{}:{}", listener.name, listener.host, port.number()));
        protocols.push_str(&format!(",{}:{}", listener.name, listener.protocol));
    }
    let advertised = listeners.join(",");
    let controller = format!("CONTROLLER://127.0.0.1:{}", broker.ports.controller.number());

    let mut lines = vec![
        ("process.roles", "broker,controller".to_owned()),
        ("node.id", broker.id.to_string()),
        ("controller.quorum.voters", voters.join(",")),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("listeners", format!("{advertised},{controller}")),
        ("advertised.listeners", advertised),
        ("inter.broker.listener.name", "HOST".to_owned()),
        ("listener.security.protocol.map", protocols),
        ("log.dirs", broker.folder.join("data").display().to_string()),
        ("offsets.topic.replication.factor", replicas.to_string()),
        ("transaction.state.log.replication.factor", replicas.to_string()),
        ("transaction.state.log.min.isr", replicas.div_ceil(2).to_string()),
        ("default.replication.factor", replicas.to_string()),
        // Fifty partitions of offsets make each start and each failover slower, for nothing.
        ("offsets.topic.num.partitions", "4".to_owned()),
        ("transaction.state.log.num.partitions", "4".to_owned()),
        // A test wants its first rebalance now, and an error for a topic that nobody has made.
        ("group.initial.rebalance.delay.ms", "0".to_owned()),
        ("auto.create.topics.enable", "false".to_owned()),
        // Impatient clients are allowed, so that tests of failure do not wait for the usual minimum of 6 s.
        ("group.min.session.timeout.ms", "1000".to_owned()),
        ("log.retention.check.interval.ms", "1000".to_owned()),
    ];
    let own = options.properties.iter().map(|(key, value)| (key.as_str(), value.clone()));
    lines.retain(|(key, _)| !options.properties.iter().any(|(other, _)| other == key));
    lines.extend(own);
    let secured = options.listeners.iter().flat_map(|listener| {
        let prefix = format!("listener.name.{}", listener.name.to_lowercase());
        listener.properties.iter().map(move |(key, value)| format!("{prefix}.{key}={value}\n"))
    });
    lines.iter().map(|(key, value)| format!("{key}={value}\n")).chain(secured).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(options: &KafkaOptions) -> String {
        let broker = |id| Broker {
            id,
            ports: Ports::reserve(options.listeners.len()).unwrap(),
            folder: PathBuf::from("/nowhere"),
        };
        let all: Vec<_> = (1..=options.brokers).map(broker).collect();
        render(&all[0], &all, options)
    }

    #[test]
    fn three_brokers_vote_and_replicate() {
        let text = rendered(&KafkaOptions { brokers: 3, ..KafkaOptions::default() });
        assert!(text.contains("1@127.0.0.1:") && text.contains("3@127.0.0.1:"), "{text}");
        assert!(text.contains("transaction.state.log.min.isr=2\n"), "{text}");
    }

    #[test]
    fn an_option_replaces_the_line_of_the_same_key() {
        let properties = vec![("auto.create.topics.enable".to_owned(), "true".to_owned())];
        let text = rendered(&KafkaOptions { properties, ..KafkaOptions::default() });
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("auto.create")).collect();
        assert_eq!(lines, ["auto.create.topics.enable=true"]);
    }

    #[test]
    fn a_further_listener_has_a_port_a_protocol_and_properties_of_its_own() {
        let listener = super::super::Listener {
            name: "SECURE".to_owned(),
            protocol: "SASL_SSL".to_owned(),
            host: "localhost".to_owned(),
            properties: vec![("ssl.client.auth".to_owned(), "required".to_owned())],
        };
        let text = rendered(&KafkaOptions { listeners: vec![listener], ..KafkaOptions::default() });
        assert!(text.contains(",SECURE://localhost:"), "{text}");
        assert!(text.contains(",SECURE:SASL_SSL\n"), "{text}");
        assert!(text.contains("listener.name.secure.ssl.client.auth=required\n"), "{text}");
    }

    #[test]
    fn pods_get_a_listener_only_when_they_have_an_address() {
        assert!(!rendered(&KafkaOptions::default()).contains("PODS://"));
        let pod_address = Some(std::net::Ipv4Addr::new(198, 19, 128, 1));
        assert!(
            rendered(&KafkaOptions { pod_address, ..KafkaOptions::default() })
                .contains("PODS://198.19.128.1:")
        );
    }
}
