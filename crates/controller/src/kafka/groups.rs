//! State and members of any group, of both protocols.
//!
//! The safe interface of `rdkafka` asks every broker for all its groups, so that one that does not answer hides what the others
//! say, and knows nothing of groups that the broker leads (KIP-848). The admin request of librdkafka asks the coordinator of the
//! group alone, and knows both kinds.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::ptr::NonNull;
use std::time::Duration;

use autoscaler::GroupState;
use rdkafka::bindings as c;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::native::{Exchange, Owned, success};

const OPERATION: c::rd_kafka_admin_op_t = c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;

/// A group as its coordinator describes it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    /// What it does.
    pub(super) state: GroupState,
    /// The topics of which each member has partitions.
    members: Vec<Vec<Box<[u8]>>>,
}

/// What a member has to do with a topic.
#[derive(PartialEq)]
enum Part {
    /// It has partitions of it.
    Reads,
    /// It has partitions of other topics only.
    Elsewhere,
    /// It has none.
    Idle,
}

impl Group {
    /// How many members read `topic`. Pipelines may share a group over different topics, and then its members are not all one's
    /// own; of a member without partitions nobody can tell whose it is, so beside others' members it makes the number unknown.
    pub(super) fn readers(&self, topic: &str) -> Option<u32> {
        let parts = || {
            self.members.iter().map(|topics| match topics.as_slice() {
                [] => Part::Idle,
                topics if topics.iter().any(|of| **of == *topic.as_bytes()) => Part::Reads,
                _ => Part::Elsewhere,
            })
        };
        let among_others = parts().any(|part| part == Part::Elsewhere);
        if among_others && parts().any(|part| part == Part::Idle) {
            return None;
        }
        u32::try_from(parts().filter(|part| *part != Part::Elsewhere).count()).ok()
    }
}

/// Asks the coordinator of `group` about it. Blocks for `timeout` at most (and a second for librdkafka to say so).
pub(super) fn describe<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    timeout: Duration,
) -> Result<Group, KafkaError> {
    let exchange = Exchange::new(client, OPERATION, timeout)?;
    let name = CString::new(group)?;
    let mut names = [name.as_ptr()];
    // SAFETY: the client outlives the call; `names` holds one live text that ends with a zero, and the count says so; options and
    // queue are live. librdkafka copies what it needs of all of them before it returns.
    unsafe {
        c::rd_kafka_DescribeConsumerGroups(
            client.native_ptr(),
            names.as_mut_ptr(),
            names.len(),
            exchange.options.pointer(),
            exchange.queue.pointer(),
        );
    }
    answer(&exchange.answer()?)
}

fn answer(event: &Owned<c::rd_kafka_event_t>) -> Result<Group, KafkaError> {
    let unexpected = KafkaError::OffsetFetch(RDKafkaErrorCode::Fail);
    // SAFETY: the event is live. The result belongs to it and is null for an event of another type.
    let result = unsafe { c::rd_kafka_event_DescribeConsumerGroups_result(event.pointer()) };
    let result = NonNull::new(result.cast_mut()).ok_or(unexpected.clone())?;
    let mut count = 0;
    // SAFETY: the result is live as long as the event; `count` is where the number of groups goes to.
    let groups = unsafe { c::rd_kafka_DescribeConsumerGroups_result_groups(result.as_ptr(), &raw mut count) };
    if groups.is_null() || count == 0 {
        return Err(unexpected);
    }
    // SAFETY: librdkafka gives an array of `count` pointers, at least one, that belong to the event.
    let group = unsafe { *groups };
    // SAFETY: the group is live as long as the event; its error is null when there is none, which has the code "no error".
    let outcome =
        success(unsafe { c::rd_kafka_error_code(c::rd_kafka_ConsumerGroupDescription_error(group)) });
    match outcome {
        Err(KafkaError::OffsetFetch(RDKafkaErrorCode::GroupIdNotFound)) => {
            return Ok(Group { state: GroupState::Dead, members: Vec::new() });
        }
        outcome => outcome?,
    }
    // SAFETY: as before.
    let code = unsafe { c::rd_kafka_ConsumerGroupDescription_state(group) };
    // SAFETY: as before.
    let members = unsafe { c::rd_kafka_ConsumerGroupDescription_member_count(group) };
    // SAFETY: as before, and each number is below the count.
    let members =
        (0..members).map(|number| unsafe { c::rd_kafka_ConsumerGroupDescription_member(group, number) });
    Ok(Group { state: state(code), members: members.map(topics).collect() })
}

fn state(code: c::rd_kafka_consumer_group_state_t) -> GroupState {
    use c::rd_kafka_consumer_group_state_t as State;
    match code {
        State::RD_KAFKA_CONSUMER_GROUP_STATE_STABLE => GroupState::Stable,
        State::RD_KAFKA_CONSUMER_GROUP_STATE_PREPARING_REBALANCE
        | State::RD_KAFKA_CONSUMER_GROUP_STATE_COMPLETING_REBALANCE => GroupState::Rebalancing,
        State::RD_KAFKA_CONSUMER_GROUP_STATE_EMPTY => GroupState::Empty,
        State::RD_KAFKA_CONSUMER_GROUP_STATE_DEAD => GroupState::Dead,
        // Among them the two states of a group led by the broker that librdkafka (2.12) has no names for, Assigning and
        // Reconciling. A group was seen in one of them for longer than any rebalance takes, so it holds nothing up.
        _ => GroupState::Unknown,
    }
}

// The topics of a member's partitions, each once. `member` is null or live as long as its group.
fn topics(member: *const c::rd_kafka_MemberDescription_t) -> Vec<Box<[u8]>> {
    if member.is_null() {
        return Vec::new();
    }
    // SAFETY: the member is live; its assignment is null or belongs to it.
    let assignment = unsafe { c::rd_kafka_MemberDescription_assignment(member) };
    if assignment.is_null() {
        return Vec::new();
    }
    // SAFETY: the assignment is live; its list is null or belongs to it.
    let list = unsafe { c::rd_kafka_MemberAssignment_partitions(assignment) };
    // SAFETY: as just said.
    let Some(list) = (unsafe { list.as_ref() }) else { return Vec::new() };
    let count = usize::try_from(list.cnt).unwrap_or(0);
    if count == 0 || list.elems.is_null() {
        return Vec::new();
    }
    // SAFETY: librdkafka keeps `cnt` elements at `elems`, and nobody writes to them while the list is borrowed.
    let elements = unsafe { std::slice::from_raw_parts(list.elems, count) };
    let mut topics: Vec<Box<[u8]>> = Vec::new();
    for element in elements.iter().filter(|element| !element.topic.is_null()) {
        // SAFETY: the topic of an element is a text that ends with a zero and lives as long as the list.
        let topic = unsafe { CStr::from_ptr(element.topic) }.to_bytes();
        if topics.iter().all(|known| **known != *topic) {
            topics.push(topic.into());
        }
    }
    topics
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_other_topics_are_not_counted() {
        type Members = &'static [&'static [&'static str]];
        let table: [(Members, Option<u32>, &str); 6] = [
            (&[], Some(0), "nobody"),
            (&[&["clicks"], &["clicks"]], Some(2), "its own"),
            (&[&["clicks"], &[]], Some(2), "one has nothing to do"),
            (&[&["clicks"], &["views"], &["view", "click"]], Some(1), "others' beside it"),
            (&[&["clicks", "views"]], Some(1), "one that reads both"),
            (&[&["clicks"], &["views"], &[]], None, "one that may be anybody's"),
        ];
        for (members, expected, what) in table {
            let topics = |topics: &&[&str]| topics.iter().map(|topic| topic.as_bytes().into()).collect();
            let group = Group { state: GroupState::Stable, members: members.iter().map(topics).collect() };
            assert_eq!(group.readers("clicks"), expected, "{what}");
        }
    }

    #[test]
    fn a_state_without_a_name_is_unknown_and_holds_nothing_up() {
        use c::rd_kafka_consumer_group_state_t as State;
        let table = [
            (State::RD_KAFKA_CONSUMER_GROUP_STATE_STABLE, GroupState::Stable),
            (State::RD_KAFKA_CONSUMER_GROUP_STATE_COMPLETING_REBALANCE, GroupState::Rebalancing),
            (State::RD_KAFKA_CONSUMER_GROUP_STATE_EMPTY, GroupState::Empty),
            (State::RD_KAFKA_CONSUMER_GROUP_STATE_DEAD, GroupState::Dead),
            (State::RD_KAFKA_CONSUMER_GROUP_STATE_UNKNOWN, GroupState::Unknown),
        ];
        for (code, expected) in table {
            assert_eq!(state(code), expected, "{code:?}");
        }
    }
}
