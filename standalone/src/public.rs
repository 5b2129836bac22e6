//! The clients' port: the broker's services, health and reflection.

use alluvium_broker::broker::Broker;
use alluvium_proto::PUBLIC_DESCRIPTORS;
use prometheus_client::registry::Registry;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tonic_reflection::server::Builder;

/// The whole server's name in the health protocol.
const WHOLE: &str = "";

/// The routes of the clients' port, and what tells clients whether they are served.
pub(crate) async fn routes(broker: &Broker, registry: &mut Registry) -> anyhow::Result<(Routes, HealthReporter)> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status(WHOLE, ServingStatus::Serving).await;
    // Older clients speak only the alpha version of reflection.
    let reflection = Builder::configure().register_encoded_file_descriptor_set(PUBLIC_DESCRIPTORS);
    let alpha = Builder::configure().register_encoded_file_descriptor_set(PUBLIC_DESCRIPTORS);
    let routes = alluvium_broker::server::routes(broker, registry.sub_registry_with_prefix("broker"))
        .add_service(health)
        .add_service(reflection.build_v1()?)
        .add_service(alpha.build_v1alpha()?);
    Ok((routes, reporter))
}

/// Tells clients that they are not served any more.
pub(crate) async fn stop_serving(reporter: &HealthReporter) {
    reporter.set_service_status(WHOLE, ServingStatus::NotServing).await;
}
