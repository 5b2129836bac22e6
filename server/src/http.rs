//! The operators' port: `/metrics`, `/healthz` (the process lives), `/readyz` (it serves, or why not).

use std::sync::{Arc, OnceLock};

use alluvium_runtime::tasks::{OnFailure, Tasks};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::ListenerExt;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What the port shows.
#[derive(Clone)]
pub(crate) struct Operators {
    /// There once the process serves.
    registry: Arc<OnceLock<Registry>>,
    readiness: watch::Sender<Readiness>,
}

/// Whether the process serves.
#[derive(Clone, Copy)]
enum Readiness {
    Ready,
    NotReady { because: &'static str },
}

impl Operators {
    /// Not ready yet.
    pub(crate) fn new() -> Self {
        Self { registry: Arc::default(), readiness: watch::Sender::new(Readiness::NotReady { because: "starting" }) }
    }

    /// The process serves, and these are its figures.
    pub(crate) fn ready(&self, registry: Registry) {
        assert!(self.registry.set(registry).is_ok(), "a process becomes ready once");
        self.readiness.send_replace(Readiness::Ready);
    }

    /// The process does not serve.
    pub(crate) fn not_ready(&self, because: &'static str) {
        self.readiness.send_replace(Readiness::NotReady { because });
    }

    /// Serves until the tasks are stopped.
    pub(crate) fn serve(self, tasks: &Tasks, listener: TcpListener) {
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .with_state(self);
        // Without this, Nagle's algorithm delays small answers.
        let listener = listener.tap_io(|socket| {
            if let Err(error) = socket.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY");
            }
        });
        let stop = tasks.clone();
        tasks.spawn("http", OnFailure::ShutDown, async move {
            axum::serve(listener, router).with_graceful_shutdown(async move { stop.stopping().await }).await
        });
    }
}

async fn metrics(State(operators): State<Operators>) -> impl IntoResponse {
    let mut text = String::new();
    let none_yet = Registry::default();
    match prometheus_client::encoding::text::encode(&mut text, operators.registry.get().unwrap_or(&none_yet)) {
        Ok(()) => (StatusCode::OK, [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], error.to_string()),
    }
}

async fn ready(State(operators): State<Operators>) -> impl IntoResponse {
    match *operators.readiness.borrow() {
        Readiness::Ready => (StatusCode::OK, "ready\n".to_owned()),
        Readiness::NotReady { because } => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {because}\n")),
    }
}
