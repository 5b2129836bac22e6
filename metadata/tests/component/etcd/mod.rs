//! The store on etcd, and what befalls a real one.

use alluvium_metadata::etcd::EtcdConfig;
use alluvium_test_etcd::Etcd;

pub(crate) fn etcd_config(etcd: &Etcd) -> EtcdConfig {
    EtcdConfig { endpoints: vec![etcd.url()], ..EtcdConfig::default() }
}
