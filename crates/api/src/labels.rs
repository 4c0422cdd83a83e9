//! Names that the controller, the tests and the tools have to agree on.

/// Group of the resource.
pub const GROUP: &str = "analyticspipeline.dev";
/// Value of `app.kubernetes.io/name` on everything made for a pipeline.
pub const APP_NAME: &str = "analytics-consumer";
/// Value of `app.kubernetes.io/managed-by`.
pub const MANAGED_BY: &str = "analytics-controller";
/// Value of `app.kubernetes.io/part-of`.
pub const PART_OF: &str = "analytics-pipeline";

/// Label key: name of the application.
pub const LABEL_NAME: &str = "app.kubernetes.io/name";
/// Label key: name of the pipeline that an object belongs to.
pub const LABEL_INSTANCE: &str = "app.kubernetes.io/instance";
/// Label key: who manages an object.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label key: the product that an object is part of.
pub const LABEL_PART_OF: &str = "app.kubernetes.io/part-of";
/// Label key: the role of an object inside the product (`consumer` or `migration`).
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";

/// Annotation on the pod template: hash of the configuration and of the referenced Secrets, so that a change rolls the pods.
pub const ANNOTATION_CONFIG_HASH: &str = "analyticspipeline.dev/config-hash";

/// Name of the Deployment, ServiceAccount, ConfigMap, Service and PodDisruptionBudget of a pipeline.
#[must_use]
pub fn consumer_name(pipeline: &str) -> String {
    format!("{pipeline}-consumer")
}

/// Name of the migration Job of a pipeline; `hash` is eight hexadecimal digits.
#[must_use]
pub fn migration_name(pipeline: &str, hash: &str) -> String {
    format!("{pipeline}-migrate-{hash}")
}
