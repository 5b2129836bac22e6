//! The operators' port: `/metrics`, `/healthz` (the process lives), `/readyz` (it serves).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alluvium_runtime::tasks::{OnFailure, Tasks};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::ListenerExt;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

/// What the port shows.
#[derive(Clone)]
pub(crate) struct Operators {
    registry: Arc<Registry>,
    ready: Arc<AtomicBool>,
}

impl Operators {
    /// Shows `registry`; not ready yet.
    pub(crate) fn new(registry: Registry) -> Self {
        Self { registry: Arc::new(registry), ready: Arc::new(AtomicBool::new(false)) }
    }

    /// Changes what `/readyz` says.
    pub(crate) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
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
    match prometheus_client::encoding::text::encode(&mut text, &operators.registry) {
        Ok(()) => (StatusCode::OK, [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], error.to_string()),
    }
}

async fn ready(State(operators): State<Operators>) -> impl IntoResponse {
    if operators.ready.load(Ordering::Acquire) {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready: starting or stopping\n")
    }
}
