//! What a port serves: clients' services on the clients' port alone, our own on the internal one alone, and each only what it is.

use std::path::Path;

use alluvium_tests::Cluster;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::wire::{channel, raw_call, reason};

/// Our own services, and on whose internal port each is served.
const INTERNAL: &[(&str, &str)] =
    &[("alluvium.internal.v1.BookieService", "bookie-0"), ("alluvium.internal.v1.ForwardService", "broker-0")];

/// A method that a proto defines.
#[derive(Debug)]
struct Method {
    /// `package.Service`
    service: String,
    /// `/package.Service/Method`
    path: String,
    /// Whether either side sends more than one message.
    streams: bool,
}

/// The methods that the protos in a folder define.
fn methods(folder: &str) -> Vec<Method> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto").join(folder);
    let mut methods = Vec::new();
    for file in std::fs::read_dir(folder).expect("readable") {
        let text = std::fs::read_to_string(file.expect("readable").path()).expect("readable");
        let (mut package, mut service) = ("", String::new());
        for line in text.lines() {
            let mut words = line.split([' ', ';', '(']).filter(|word| !word.is_empty());
            match (words.next(), words.next()) {
                (Some("package"), Some(name)) => package = name,
                (Some("service"), Some(name)) => service = format!("{package}.{name}"),
                (Some("rpc"), Some(name)) => {
                    let (path, streams) = (format!("/{service}/{name}"), line.contains("(stream "));
                    methods.push(Method { service: service.clone(), path, streams });
                }
                _ => {}
            }
        }
    }
    methods
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn internal_ports_serve_no_client_and_the_clients_port_serves_nothing_internal() {
    let mut cluster = Cluster::start(1, 1);
    let internal_ports = [("broker-0", cluster.internal_url("broker-0")), ("bookie-0", cluster.internal_url("bookie-0"))];
    let clients_port = ("the clients' port", cluster.url("broker-0"));
    let (public, internal) = (methods("alluvium/v1"), methods("alluvium/internal/v1"));
    assert!(public.len() > 20 && internal.len() > 7, "the protos were read: {public:?}, {internal:?}");
    for (port, url) in internal_ports.iter().chain([&clients_port]) {
        let channel = channel(url.clone()).await;
        let health = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.expect("answers").into_inner();
        assert_eq!(health.status(), ServingStatus::Serving, "{port}");
        let is_internal = *port != clients_port.0;
        let elsewhere = internal.iter().filter(|method| !INTERNAL.contains(&(&method.service, port)));
        let refused = public.iter().filter(|_| is_internal).chain(elsewhere);
        for Method { path: method, .. } in refused {
            let status = raw_call(&channel, method, 0, Vec::new()).await;
            let said = (status.code(), reason(&status).0);
            assert_eq!(said, (Code::Unimplemented, "METHOD_UNKNOWN".to_owned()), "{method} on {port}: {status}");
        }
    }
    for (service, member) in INTERNAL {
        let channel = channel(cluster.internal_url(member)).await;
        for Method { path: method, .. } in internal.iter().filter(|method| method.service == *service && !method.streams) {
            let status = raw_call(&channel, method, 3, vec![0xff; 3]).await;
            let said = (status.code(), reason(&status).0);
            assert_eq!(said, (Code::InvalidArgument, "REQUEST_MALFORMED".to_owned()), "{method} is served by {member}: {status}");
        }
    }
    for (member, figures) in [("broker-0", "alluvium_ledger_"), ("bookie-0", "alluvium_bookie_")] {
        let process = cluster.process(member);
        assert_eq!(process.http("/healthz").map(|(status, _)| status), Some(200));
        let (_, metrics) = process.http("/metrics").expect("answers");
        assert!(metrics.contains(figures) && metrics.trim_end().ends_with("# EOF"), "{metrics}");
    }
}
