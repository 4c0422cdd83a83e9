//! The AnalyticsPipeline resource: types and schema, no client, no runtime.
