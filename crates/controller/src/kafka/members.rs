//! Which members of a group read a topic. Pipelines may share a group over different topics, and then the group's members are
//! not all one's own.

/// Whether a member of the classic group protocol subscribes to `topic`, by the subscription that it sent when it joined
/// (`ConsumerProtocolSubscription`: version, topics, …; integers in network order). What cannot be read counts as a yes.
pub(super) fn subscribes(subscription: &[u8], topic: &str) -> bool {
    topics(subscription).is_none_or(|topics| topics.contains(&topic.as_bytes()))
}

fn topics(subscription: &[u8]) -> Option<Vec<&[u8]>> {
    let (_version, rest) = subscription.split_at_checked(2)?;
    let (count, mut rest) = rest.split_at_checked(4)?;
    let count = i32::from_be_bytes(count.try_into().ok()?);
    let mut topics = Vec::new();
    for _ in 0..count {
        let (length, tail) = rest.split_at_checked(2)?;
        let length = usize::try_from(i16::from_be_bytes(length.try_into().ok()?)).ok()?;
        let (name, tail) = tail.split_at_checked(length)?;
        topics.push(name);
        rest = tail;
    }
    Some(topics)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(topics: &[&str]) -> Vec<u8> {
        let mut bytes = vec![0, 3];
        bytes.extend(i32::try_from(topics.len()).unwrap().to_be_bytes());
        for topic in topics {
            bytes.extend(i16::try_from(topic.len()).unwrap().to_be_bytes());
            bytes.extend(topic.bytes());
        }
        // User data and owned partitions follow; they do not matter here.
        bytes.extend([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn members_of_other_topics_are_not_counted() {
        let table = [
            (subscription(&["clicks"]), true),
            (subscription(&["views", "clicks"]), true),
            (subscription(&["views"]), false),
            (subscription(&[]), false),
            (subscription(&["click"]), false),
        ];
        for (bytes, expected) in table {
            assert_eq!(subscribes(&bytes, "clicks"), expected, "{bytes:?}");
        }
    }

    /// A subscription cut short, or with lengths out of all bounds, must neither panic nor hide a member.
    #[test]
    fn what_cannot_be_read_counts_as_a_member() {
        let whole = subscription(&["views"]);
        for length in 0..12 {
            assert!(subscribes(&whole[..length], "clicks"), "{length}");
        }
        assert!(subscribes(&[0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff], "clicks"));
    }
}
