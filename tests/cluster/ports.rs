//! What a port serves: clients' services on the clients' port alone, our own on the internal one alone.

use alluvium_proto::internal::v1 as internal;
use alluvium_proto::internal::v1::bookie_service_client::BookieServiceClient;
use alluvium_proto::v1;
use alluvium_proto::v1::publish_service_client::PublishServiceClient;
use alluvium_proto::v1::topic_service_client::TopicServiceClient;
use alluvium_tests::Cluster;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

async fn channel(url: String) -> Channel {
    Endpoint::from_shared(url).expect("a url").connect().await.expect("the port accepts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn internal_ports_serve_no_client_and_the_clients_port_serves_nothing_internal() {
    let mut cluster = Cluster::start(1, 1);
    for member in ["broker-0", "bookie-0"] {
        let channel = channel(cluster.internal_url(member)).await;
        let health = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.expect("answers").into_inner();
        assert_eq!(health.status(), ServingStatus::Serving, "{member}");
        let create = v1::CreateTopicRequest { name: "public/default/t".to_owned(), partitions: 1, policies: None };
        let refused = TopicServiceClient::new(channel.clone()).create_topic(create).await.expect_err("not served");
        assert_eq!(refused.code(), Code::Unimplemented, "{member}: {refused:?}");
        let reason = refused.get_error_details().error_info().map(|info| info.reason.clone());
        assert_eq!(reason.as_deref(), Some("METHOD_UNKNOWN"), "{member}");
        let publish = v1::PublishRequest { topic: "public/default/t".to_owned(), ..Default::default() };
        let refused = PublishServiceClient::new(channel).publish(publish).await.expect_err("not served");
        assert_eq!(refused.code(), Code::Unimplemented, "{member}: {refused:?}");
    }
    let list = internal::ListRequest { incarnation: vec![0; 16].into(), after: None, limit: 1 };
    for url in [cluster.url("broker-0"), cluster.internal_url("broker-0")] {
        let refused = BookieServiceClient::new(channel(url).await).list(list.clone()).await.expect_err("not served");
        assert_eq!(refused.code(), Code::Unimplemented, "{refused:?}");
    }
    let other_life = BookieServiceClient::new(channel(cluster.internal_url("bookie-0")).await).list(list).await;
    assert_eq!(other_life.expect_err("another incarnation").code(), Code::FailedPrecondition, "this one is served, and refused");
    for (member, figures) in [("broker-0", "alluvium_ledger_"), ("bookie-0", "alluvium_bookie_")] {
        let process = cluster.process(member);
        assert_eq!(process.http("/healthz").map(|(status, _)| status), Some(200));
        let (_, metrics) = process.http("/metrics").expect("answers");
        assert!(metrics.contains(figures) && metrics.trim_end().ends_with("# EOF"), "{metrics}");
    }
}
