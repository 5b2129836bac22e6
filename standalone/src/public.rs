//! The clients' port: the broker's services, health and reflection.

use alluvium_broker::broker::Broker;
use alluvium_proto::{PUBLIC_DESCRIPTORS, status};
use axum::body::Body;
use axum::response::Response;
use prometheus_client::registry::Registry;
use tonic::service::Routes;
use tonic::{Code, Status};
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
    let routes: Routes = alluvium_broker::server::routes(broker, registry.sub_registry_with_prefix("broker"))
        .add_service(health)
        .add_service(reflection.build_v1()?)
        .add_service(alpha.build_v1alpha()?);
    let explained = routes.into_axum_router().layer(axum::middleware::map_response(explain));
    Ok((explained.into(), reporter))
}

/// Every refusal carries a reason, also those that are made before a service sees the request.
async fn explain(response: Response) -> Response {
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() != Code::Ok && status.details().is_empty() => status::explained(status).into_http::<Body>(),
        _ => response,
    }
}

/// Tells clients that they are not served any more.
pub(crate) async fn stop_serving(reporter: &HealthReporter) {
    reporter.set_service_status(WHOLE, ServingStatus::NotServing).await;
}
