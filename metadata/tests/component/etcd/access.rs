//! Who is let in, to which etcd, and to what of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use alluvium_metadata::conformance::{self, Subject};
use alluvium_metadata::error::{ClusterError, EtcdError};
use alluvium_metadata::etcd::{EtcdConfig, EtcdStore, EtcdTls, Password};
use alluvium_metadata::store::{MetadataStore, Range, Txn};
use alluvium_metadata::{StoreError, UpdateError};
use alluvium_runtime::clock::Clock;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::tasks::Tasks;
use alluvium_test_etcd::{Etcd, Options, Tls};
use alluvium_types::ids::ClusterId;
use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::{config_at, etcd_config, key, world};

async fn refused(config: &EtcdConfig) -> EtcdError {
    let (tasks, _failures) = Tasks::new();
    let connected = EtcdStore::connect(config, Clock::system(), Entropy::seeded(1), &tasks).await;
    connected.map(drop).expect_err("it is not let in")
}

#[tokio::test]
async fn clusters_that_share_an_etcd_do_not_see_each_other() {
    let etcd = Etcd::start();
    let named = |prefix: &str| EtcdConfig { prefix: prefix.to_owned(), ..etcd_config(&etcd) };
    let (one, two) = (world(&named("one/"), 1).await, world(&named("two/"), 2).await);
    let from = two.store.revision().await.unwrap().next();
    let mut watch = two.store.watch(&Bytes::new(), from).await.unwrap();
    one.put("k", b"1").await;
    two.put("k", b"2").await;
    assert_eq!(two.next(&mut watch).await.unwrap().len(), 1);
    let all = Range { prefix: Bytes::new(), after: None, limit: 10 };
    for (world, value) in [(&one, "1"), (&two, "2")] {
        let found = world.store.range(&all).await.unwrap().value.records;
        assert_eq!(found.iter().map(|r| (r.key.clone(), r.value.clone())).collect::<Vec<_>>(), [(key("k"), key(value))]);
    }
    // A process that was told which cluster it belongs to finds out that it was given another's prefix.
    let id = one.metadata.clusters().init(None).await.unwrap().value.id;
    assert_eq!(one.metadata.clusters().require(id).await.unwrap().value.id, id);
    assert_eq!(two.metadata.clusters().require(id).await, Err(ClusterError::Missing { expected: id }));
    let found = two.metadata.clusters().init(Some(ClusterId::new(Entropy::seeded(3).uuid()))).await.unwrap().value.id;
    assert_eq!(two.metadata.clusters().require(id).await, Err(ClusterError::Other { found, expected: id }));
}

/// Somebody empties etcd, or restores an old backup, under a running process: nothing that it says from then on is used.
#[tokio::test]
async fn an_etcd_that_was_emptied_is_not_taken_for_the_same() {
    let mut etcd = Etcd::start();
    let world = world(&etcd_config(&etcd), 1).await;
    for n in 0..10 {
        world.put("k", &[n]).await;
    }
    let mut watch = world.store.watch(&key("k"), world.store.revision().await.unwrap().next()).await.unwrap();
    etcd.kill();
    etcd.empty();
    etcd.restart();
    let told = world.within("it is noticed", async {
        loop {
            match world.store.get(&key("k")).await {
                Ok(found) => panic!("an empty etcd was believed: {found:?}"),
                Err(error) if error.to_string().contains("emptied or restored") => return error,
                Err(_) => world.clock.sleep(Duration::from_millis(20)).await,
            }
        }
    });
    assert!(told.await.to_string().contains(&etcd.url()));
    assert_eq!(world.store.txn(&Txn::new().put(key("k"), key("x"))).await, Err(StoreError::Unknown));
    let silent = world.clock.timeout(Duration::from_millis(500), watch.next()).await;
    assert!(silent.is_err(), "{silent:?}");
}

#[tokio::test]
async fn an_endpoint_that_is_away_is_passed_over() {
    let (etcd, mut away) = (Etcd::start(), Etcd::start());
    away.kill();
    let config = EtcdConfig { endpoints: vec![away.url(), etcd.url()], ..EtcdConfig::default() };
    let reached = world(&config, 1).await;
    reached.put("k", b"1").await;
    assert!(reached.store.get(&key("k")).await.unwrap().value.is_some());
    let nobody = EtcdConfig {
        endpoints: vec![away.url(), "http://127.0.0.1:1".to_owned()],
        connect_timeout_ms: 500,
        request_timeout_ms: 300,
        ..EtcdConfig::default()
    };
    let error = refused(&nobody).await;
    assert!(error.is_retryable());
    let told = error.to_string();
    assert!(nobody.endpoints.iter().all(|url| told.contains(url)) && told.contains("refused"), "{told}");
    // Another etcd, not another member of the same.
    away.empty();
    away.restart();
    let config = EtcdConfig { endpoints: vec![etcd.url(), away.url()], ..EtcdConfig::default() };
    let world = world(&config, 1).await;
    drop(etcd);
    let told = world.within("it is noticed", async {
        loop {
            match world.store.get(&key("k")).await {
                Ok(found) => panic!("another etcd was believed: {found:?}"),
                Err(error) if error.to_string().contains("was used so far") => return error,
                Err(_) => world.clock.sleep(Duration::from_millis(20)).await,
            }
        }
    });
    assert!(told.await.to_string().contains(&away.url()));
}

async fn with_users(etcd: &Etcd) {
    let mut admin = etcd_client::Client::connect([etcd.url()], None).await.unwrap();
    let range = etcd_client::Permission::read_write("ours/").with_prefix();
    admin.role_add("ours").await.unwrap();
    admin.role_grant_permission("ours", range).await.unwrap();
    admin.user_add("alluvium", "sediment", None).await.unwrap();
    admin.user_grant_role("alluvium", "ours").await.unwrap();
    admin.user_add("root", "bedrock", None).await.unwrap();
    admin.user_grant_role("root", "root").await.unwrap();
    admin.auth_enable().await.unwrap();
}

/// With etcd's own users: who has none, or the wrong password, is told so at once; who has one does all that a store does,
/// also when etcd has forgotten its token, and nothing under another prefix.
#[tokio::test]
async fn a_user_is_let_in_to_its_own_prefix_only() {
    let mut etcd = Etcd::start();
    with_users(&etcd).await;
    let nobody = EtcdConfig { prefix: "ours/".to_owned(), ..etcd_config(&etcd) };
    let named = |password: &str| EtcdConfig {
        user: Some("alluvium".to_owned()),
        password: Some(Password::new(password.to_owned())),
        ..nobody.clone()
    };
    for (config, why) in [(nobody.clone(), "user name is empty"), (named("wrong"), "authentication failed")] {
        let error = refused(&config).await;
        assert!(matches!(&error, EtcdError::Refused { reason } if reason.contains(why)), "{error}");
        assert!(error.to_string().contains(&etcd.url()) && !error.is_retryable(), "{error}");
    }
    let elsewhere = EtcdConfig { prefix: "theirs/".to_owned(), ..named("sediment") };
    let error = refused(&elsewhere).await;
    assert!(error.to_string().contains("permission denied"), "{error}");
    let world = world(&named("sediment"), 1).await;
    assert!(!format!("{:?} {:?}", world.store, named("sediment")).contains("sediment"), "a password is printed");
    let from = world.store.revision().await.unwrap().next();
    let mut watch = world.store.watch(&key("k"), from).await.unwrap();
    world.put("k", b"1").await;
    world.next(&mut watch).await.unwrap();
    let session = world.metadata.begin_session(Duration::from_secs(60)).await.unwrap();
    // Its tokens are in memory.
    etcd.kill();
    etcd.restart();
    world.answers_again().await;
    world.put("k", b"2").await;
    assert_eq!(world.next(&mut watch).await.unwrap().len(), 1);
    world.store.keep_alive(session.id()).await.unwrap();
    session.end().await.unwrap();
    let (store, clock) = (std::sync::Arc::new(world.store.clone()), world.clock.clone());
    conformance::run(&Subject { store, clock, entropy: Entropy::seeded(8), tasks: world.tasks.clone() }).await;
}

/// A right that is taken away while a process runs: refused with the reason, changed nothing.
#[tokio::test]
async fn a_right_that_was_taken_away_is_named() {
    let etcd = Etcd::start();
    with_users(&etcd).await;
    let config = EtcdConfig {
        prefix: "ours/".to_owned(),
        user: Some("alluvium".to_owned()),
        password: Some(Password::new("sediment".to_owned())),
        ..etcd_config(&etcd)
    };
    let mut world = world(&config, 1).await;
    world.metadata = world.metadata.with_patience(Duration::from_millis(300));
    let root = etcd_client::ConnectOptions::new().with_user("root", "bedrock");
    let mut admin = etcd_client::Client::connect([etcd.url()], Some(root)).await.unwrap();
    admin.user_revoke_role("alluvium", "ours").await.unwrap();
    let Err(UpdateError::Read(error)) = world.metadata.clusters().init(None).await.map(drop) else { panic!("no right") };
    let told = format!("{:?}", error);
    assert!(told.contains("permission denied") && told.contains(&etcd.url()), "{told}");
    let denied = world.store.txn(&Txn::new().put(key("k"), key("v"))).await;
    assert!(matches!(&denied, Err(StoreError::Unavailable { reason }) if reason.contains("permission denied")), "{denied:?}");
    admin.user_grant_role("alluvium", "ours").await.unwrap();
    world.answers_again().await;
    assert_eq!(world.store.get(&key("k")).await.unwrap().value, None);
}

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { issuer, dir: tempfile::tempdir().unwrap() };
        let pem = authority.issuer.pem();
        authority.write("ca.pem", &pem);
        authority
    }

    fn write(&self, name: &str, pem: &str) -> PathBuf {
        let path = self.path(name);
        std::io::Write::write_all(
            &mut std::fs::OpenOptions::new().create(true).truncate(true).write(true).open(&path).unwrap(),
            pem.as_bytes(),
        )
        .unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn issue(&self, name: &str, host: &str) -> (PathBuf, PathBuf) {
        let pair = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![host.to_owned()]).unwrap().signed_by(&pair, &self.issuer).unwrap();
        (self.write(&format!("{name}.pem"), &certificate.pem()), self.write(&format!("{name}.key"), &pair.serialize_pem()))
    }
}

fn over_tls(url: String, ca: &Path, own: Option<(PathBuf, PathBuf)>) -> EtcdConfig {
    let (certificate, key) = own.unzip();
    let tls = EtcdTls { ca: ca.to_owned(), certificate, key, server_name: None };
    EtcdConfig { tls: Some(tls), connect_timeout_ms: 500, request_timeout_ms: 400, ..config_at(url) }
}

#[tokio::test]
async fn tls_lets_in_who_has_a_certificate_and_trusts_who_has_the_right_one() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (certificate, server_key) = ours.issue("etcd", "127.0.0.1");
    let tls = Tls { certificate, key: server_key, clients: ours.path("ca.pem") };
    let etcd = Etcd::start_with(Options { tls: Some(tls), ..Options::default() });
    let own = ours.issue("client", "client");
    let good = over_tls(etcd.url(), &ours.path("ca.pem"), Some(own.clone()));
    let world = world(&good, 1).await;
    world.put("k", b"1").await;
    let foreign = theirs.issue("client", "client");
    for (what, config) in [
        ("no certificate", over_tls(etcd.url(), &ours.path("ca.pem"), None)),
        ("another authority's certificate", over_tls(etcd.url(), &ours.path("ca.pem"), Some(foreign))),
        ("another authority is trusted", over_tls(etcd.url(), &theirs.path("ca.pem"), Some(own.clone()))),
        ("no tls at all", EtcdConfig { tls: None, ..over_tls(etcd.url().replace("https", "http"), &ours.path("ca.pem"), None) }),
    ] {
        let error = refused(&config).await;
        assert!(error.to_string().contains("127.0.0.1"), "{what}: {error}");
    }
    let other_name = EtcdTls { server_name: Some("elsewhere".to_owned()), ..good.tls.clone().unwrap() };
    refused(&EtcdConfig { tls: Some(other_name), ..good.clone() }).await;
    let missing = over_tls(etcd.url(), &ours.path("nothing.pem"), None);
    assert!(matches!(refused(&missing).await, EtcdError::Pem { path, .. } if path == ours.path("nothing.pem")));
    let nonsense = EtcdConfig { prefix: String::new(), endpoints: Vec::new(), ..good };
    assert!(matches!(refused(&nonsense).await, EtcdError::Config { problems } if problems.contains("prefix")));
}
