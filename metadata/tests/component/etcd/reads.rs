//! Reads that go to etcd together answer as if each had gone alone.

use alluvium_metadata::store::{MetadataStore, Range};
use alluvium_test_etcd::Etcd;
use futures::future::join_all;

use super::{etcd_config, key, world};

/// More than fit one request, some of them for the same key, some for none, some for a page.
#[tokio::test]
async fn each_is_told_what_it_asked_for() {
    let etcd = Etcd::start();
    let world = world(&etcd_config(&etcd), 1).await;
    for n in 0..200 {
        world.put(&format!("small/{n:03}"), format!("value {n}").as_bytes()).await;
    }
    let gets = (0..600).map(|n| {
        let store = &world.store;
        async move {
            let n = n % 220;
            let found = store.get(&key(&format!("small/{n:03}"))).await.expect("answered").value;
            let expected = (n < 200).then(|| format!("value {n}"));
            assert_eq!(found.map(|found| String::from_utf8_lossy(&found.value).into_owned()), expected);
        }
    });
    let pages = (0..20).map(|n| {
        let store = &world.store;
        async move {
            let range = Range { prefix: key(&format!("small/0{}", n % 10)), after: None, limit: 3 };
            let page = store.range(&range).await.expect("answered").value;
            let expected: Vec<_> = (0..3).map(|last| key(&format!("small/0{}{last}", n % 10))).collect();
            assert_eq!(page.records.into_iter().map(|record| record.key).collect::<Vec<_>>(), expected);
            assert!(page.more);
        }
    });
    futures::future::join(join_all(gets), join_all(pages)).await;
}

/// Those that are too long for one answer together are answered all the same.
#[tokio::test]
async fn large_ones_are_answered_too() {
    let etcd = Etcd::start();
    let world = world(&etcd_config(&etcd), 1).await;
    for n in 0..20 {
        world.put(&format!("large/{n:02}"), &vec![n; 1 << 20]).await;
    }
    let keys: Vec<_> = (0..20).map(|n| key(&format!("large/{n:02}"))).collect();
    let found = join_all(keys.iter().map(|key| world.store.get(key))).await;
    for (n, found) in (0..20).zip(found) {
        let value = found.expect("answered").value.expect("there").value;
        assert!(value.len() == 1 << 20 && value.iter().all(|byte| *byte == n), "the value of record {n}");
    }
}

/// M6: who reads after a write was answered sees it, whatever other reads are on their way.
#[tokio::test]
async fn m6_a_read_sees_what_was_answered_before_it_was_asked() {
    let etcd = Etcd::start();
    let world = &world(&etcd_config(&etcd), 1).await;
    let workers = (0..16).map(|worker| async move {
        let name = format!("counter/{}", worker % 4);
        for _ in 0..40 {
            let written = world.put(&name, b"x").await;
            let found = world.store.get(&key(&name)).await.expect("answered");
            assert!(found.revision >= written, "{:?} is older than {written:?}", found.revision);
            assert!(found.value.expect("there").mod_revision >= written);
        }
    });
    join_all(workers).await;
}
