//! Runs AnalyticsPipelines on Kubernetes and scales them by lag.
