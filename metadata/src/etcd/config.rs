//! What can be set about the store on etcd.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest prefix, so that framing has room for it.
pub(crate) const PREFIX_BYTES_MAX: usize = 128;
/// The most endpoints.
const ENDPOINTS_MAX: usize = 16;
/// The shortest and the longest that a request may be given, in milliseconds.
const REQUEST_TIMEOUT_MS: (u64, u64) = (50, 60_000);

/// A password. It prints as dots.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Wraps a password that came from the environment.
    pub const fn new(password: String) -> Self {
        Self(password)
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// How etcd is reached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EtcdConfig {
    /// Its members' client URLs, all with `http://` or all with `https://`. One is used at a time; the next when it fails.
    pub endpoints: Vec<String>,
    /// What all keys of this cluster begin with; it ends with `/`. Clusters that share an etcd differ in it. History is not
    /// parted by prefix: who compacts it does so for all.
    pub prefix: String,
    /// Who we are to etcd's own authentication, if it is on. It needs reading and writing under the prefix.
    pub user: Option<String>,
    /// That user's password: from the environment alone, never from a file.
    #[serde(skip)]
    pub password: Option<Password>,
    /// Certificates, for `https://` endpoints.
    pub tls: Option<EtcdTls>,
    /// How long a start waits for etcd, in milliseconds.
    pub connect_timeout_ms: u64,
    /// How long one request to one member may take, connecting included, in milliseconds. At most a third of the shortest
    /// time to live of a session, so that a keep-alive can be tried again.
    pub request_timeout_ms: u64,
}

/// Files of certificates, as PEM.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EtcdTls {
    /// Who must have signed etcd's certificate.
    pub ca: PathBuf,
    /// Our own certificate, where etcd asks for one.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// The name that etcd's certificate must be of, where it isn't the endpoints'.
    pub server_name: Option<String>,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            endpoints: vec!["http://127.0.0.1:2379".to_owned()],
            prefix: "alluvium/".to_owned(),
            user: None,
            password: None,
            tls: None,
            connect_timeout_ms: 10_000,
            request_timeout_ms: 2_000,
        }
    }
}

impl EtcdConfig {
    /// All that is wrong, one line each.
    pub fn validate(&self) -> Result<(), Vec<String>> {
        let mut problems = Vec::new();
        let mut refuse = |wrong: bool, problem: &str| {
            if wrong {
                problems.push(problem.to_owned());
            }
        };
        let count = self.endpoints.len();
        refuse(count == 0 || count > ENDPOINTS_MAX, &format!("endpoints: {count}, of 1 to {ENDPOINTS_MAX}"));
        let secure = self.endpoints.iter().filter(|url| url.starts_with("https://")).count();
        for url in &self.endpoints {
            let known = url.starts_with("https://") || url.starts_with("http://");
            refuse(!known, &format!("endpoints: {url:?} begins with neither http:// nor https://"));
        }
        refuse(secure != 0 && secure != count, "endpoints: some are https://, some are not");
        refuse(self.tls.is_some() && secure != count, "tls: endpoints are not https://");
        if let Some(tls) = &self.tls {
            refuse(tls.ca.as_os_str().is_empty(), "tls.ca: missing");
            refuse(tls.certificate.is_some() != tls.key.is_some(), "tls: certificate and key come together");
        }
        let prefix = &self.prefix;
        refuse(prefix.len() < 2 || !prefix.ends_with('/'), "prefix: not a word followed by /");
        refuse(prefix.len() > PREFIX_BYTES_MAX, &format!("prefix: longer than {PREFIX_BYTES_MAX} bytes"));
        refuse(self.user.is_some() != self.password.is_some(), "user: user and password come together");
        let (shortest, longest) = REQUEST_TIMEOUT_MS;
        let request = self.request_timeout_ms;
        let bounds = format!("request_timeout_ms: {request}, of {shortest} to {longest}");
        refuse(!(shortest..=longest).contains(&request), &bounds);
        refuse(self.connect_timeout_ms < request, "connect_timeout_ms: shorter than request_timeout_ms");
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    pub(crate) const fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    pub(crate) const fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_wrong_is_said_at_once_and_no_password_is_printed() {
        assert_eq!(EtcdConfig::default().validate(), Ok(()));
        let wrong = EtcdConfig {
            endpoints: vec!["https://a:1".to_owned(), "b:2".to_owned()],
            prefix: "alluvium".to_owned(),
            password: Some(Password::new("hunter2".to_owned())),
            tls: Some(EtcdTls { key: Some("k".into()), ..EtcdTls::default() }),
            request_timeout_ms: 1,
            connect_timeout_ms: 0,
            ..EtcdConfig::default()
        };
        assert!(!format!("{wrong:?}").contains("hunter2"));
        let problems = wrong.validate().expect_err("all of it is wrong");
        let named =
            ["endpoints", "endpoints", "tls", "tls.ca", "tls", "prefix", "user", "request_timeout_ms", "connect_timeout_ms"];
        assert_eq!(problems.iter().map(|p| p.split(':').next().unwrap_or_default()).collect::<Vec<_>>(), named);
    }
}
