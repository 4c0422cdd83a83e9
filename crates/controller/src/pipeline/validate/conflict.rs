//! Two pipelines with one group on one topic would take partitions from each other.

use std::collections::BTreeSet;

use analytics_api::AnalyticsPipeline;
use kube::ResourceExt;

/// The pipeline, if any, that was there before and reads the same topic with the same group on the same brokers. One broker
/// in common is enough to tell the same cluster.
pub(super) fn earlier_rival<'a>(
    pipeline: &AnalyticsPipeline,
    others: &[&'a AnalyticsPipeline],
) -> Option<&'a AnalyticsPipeline> {
    let brokers = brokers(pipeline);
    others
        .iter()
        .copied()
        .filter(|other| other.uid() != pipeline.uid() && other.metadata.deletion_timestamp.is_none())
        .filter(|other| other.spec.source.topic == pipeline.spec.source.topic)
        .filter(|other| other.spec.source.group_id == pipeline.spec.source.group_id)
        .filter(|other| !self::brokers(other).is_disjoint(&brokers))
        .filter(|other| age(other) < age(pipeline))
        .min_by_key(|other| age(other))
}

fn brokers(pipeline: &AnalyticsPipeline) -> BTreeSet<String> {
    pipeline
        .spec
        .source
        .bootstrap_servers
        .split(',')
        .map(|broker| broker.trim().to_ascii_lowercase())
        .collect()
}

// The name decides between two of the same second, so that never both are refused.
fn age(pipeline: &AnalyticsPipeline) -> (i64, String, String) {
    let created = pipeline.metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second());
    (created, pipeline.namespace().unwrap_or_default(), pipeline.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::fixtures;

    fn pipeline(name: &str, created: i64, source: &str) -> AnalyticsPipeline {
        let mut pipeline = fixtures::pipeline(&format!(r#"{{"source": {source}}}"#));
        pipeline.metadata.name = Some(name.to_owned());
        pipeline.metadata.uid = Some(format!("uid-{name}"));
        pipeline.metadata.creation_timestamp = Some(fixtures::time(created));
        pipeline
    }

    #[test]
    fn the_later_of_two_with_broker_topic_and_group_in_common_is_refused() {
        let first = pipeline("first", 1, r#"{"bootstrapServers": "a:1,b:1", "topic": "t", "groupId": "g"}"#);
        let table = [
            (r#"{"bootstrapServers": "B:1,c:1", "topic": "t", "groupId": "g"}"#, true),
            (r#"{"bootstrapServers": "c:1", "topic": "t", "groupId": "g"}"#, false),
            (r#"{"bootstrapServers": "a:1", "topic": "u", "groupId": "g"}"#, false),
            (r#"{"bootstrapServers": "a:1", "topic": "t", "groupId": "h"}"#, false),
        ];
        for (source, refused) in table {
            let second = pipeline("second", 2, source);
            let all = [&first, &second];
            assert_eq!(earlier_rival(&second, &all).is_some(), refused, "{source}");
            assert!(earlier_rival(&first, &all).is_none(), "the first goes on: {source}");
        }
    }

    #[test]
    fn of_two_made_in_the_same_second_exactly_one_runs() {
        let source = r#"{"bootstrapServers": "a:1", "topic": "t", "groupId": "g"}"#;
        let (one, two) = (pipeline("one", 1, source), pipeline("two", 1, source));
        let all = [&one, &two];
        let refused = [&one, &two].into_iter().filter(|p| earlier_rival(p, &all).is_some()).count();
        assert_eq!(refused, 1);
    }

    #[test]
    fn a_pipeline_that_is_being_deleted_stands_in_nobodys_way() {
        let source = r#"{"bootstrapServers": "a:1", "topic": "t", "groupId": "g"}"#;
        let mut first = pipeline("first", 1, source);
        first.metadata.deletion_timestamp = Some(fixtures::time(5));
        assert!(earlier_rival(&pipeline("second", 2, source), &[&first]).is_none());
    }
}
