//! The ports that speak gRPC: the clients', with the broker's services and reflection; the internal one, for our own processes.
//! What is served on one is never served on the other (Q8).

use std::net::SocketAddr;

use alluvium_broker::broker::Broker;
use alluvium_proto::{PUBLIC_DESCRIPTORS, status};
use alluvium_runtime::net::{self, Reserved};
use anyhow::Context;
use axum::body::Body;
use axum::response::Response;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;
use tonic_reflection::server::Builder;

/// The whole server's name in the health protocol.
const WHOLE: &str = "";

/// A port that is ours, and where it is: what was configured, or the free one that was found.
pub(crate) struct Port {
    pub(crate) listener: TcpListener,
    pub(crate) address: SocketAddr,
}

/// Takes a port; `name` is its field in the section `listen`.
pub(crate) async fn bind(name: &str, address: SocketAddr) -> anyhow::Result<Port> {
    let what = || in_use(name, address);
    let listener = net::bind(address).await.with_context(what)?;
    let address = listener.local_addr().with_context(what)?;
    Ok(Port { listener, address })
}

/// A port that is ours and refuses connections, so that nobody waits for answers there.
pub(crate) struct ClosedPort {
    name: &'static str,
    reserved: Reserved,
    pub(crate) address: SocketAddr,
}

impl ClosedPort {
    /// Takes a port; `name` is its field in the section `listen`.
    pub(crate) fn take(name: &'static str, address: SocketAddr) -> anyhow::Result<Self> {
        let what = || in_use(name, address);
        let reserved = Reserved::take(address).with_context(what)?;
        let address = reserved.address().with_context(what)?;
        Ok(Self { name, reserved, address })
    }

    /// Takes connections from now on.
    pub(crate) fn open(self) -> anyhow::Result<TcpListener> {
        self.reserved.listen().with_context(|| in_use(self.name, self.address))
    }
}

fn in_use(name: &str, address: SocketAddr) -> String {
    format!("cannot listen on {address} (listen.{name}): is another server running?")
}

/// What others are told to connect to.
pub(crate) fn reached_at(said: &str, bound: SocketAddr) -> String {
    if said.is_empty() { bound.to_string() } else { said.to_owned() }
}

/// The routes of the clients' port, and what tells clients whether they are served.
pub(crate) async fn public(broker: &Broker, registry: &mut Registry) -> anyhow::Result<(Routes, HealthReporter)> {
    let (reporter, health) = health().await;
    // Older clients speak only the alpha version of reflection.
    let reflection = Builder::configure().register_encoded_file_descriptor_set(PUBLIC_DESCRIPTORS);
    let alpha = Builder::configure().register_encoded_file_descriptor_set(PUBLIC_DESCRIPTORS);
    let routes = alluvium_broker::server::routes(broker, registry.sub_registry_with_prefix("broker"))
        .add_service(health)
        .add_service(reflection.build_v1()?)
        .add_service(alpha.build_v1alpha()?);
    Ok((explaining(routes), reporter))
}

/// The routes of an internal port, so far nothing but health; whoever serves more there adds it.
pub(crate) async fn internal() -> (Routes, HealthReporter) {
    let (reporter, health) = health().await;
    (Routes::new(health), reporter)
}

async fn health() -> (HealthReporter, HealthServer<impl Health>) {
    let (reporter, health) = tonic_health::server::health_reporter();
    serving(&reporter).await;
    (reporter, health)
}

/// The same, with a reason in every refusal, also in those that are made before a service sees the request.
pub(crate) fn explaining(routes: Routes) -> Routes {
    routes.into_axum_router().layer(axum::middleware::map_response(explain)).into()
}

async fn explain(response: Response) -> Response {
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() != Code::Ok && status.details().is_empty() => status::explained(status).into_http::<Body>(),
        _ => response,
    }
}

/// Tells the port's clients that they are served.
pub(crate) async fn serving(reporter: &HealthReporter) {
    reporter.set_service_status(WHOLE, ServingStatus::Serving).await;
}

/// Tells the port's clients that they are not served, or not any more.
pub(crate) async fn stop_serving(reporter: &HealthReporter) {
    reporter.set_service_status(WHOLE, ServingStatus::NotServing).await;
}
