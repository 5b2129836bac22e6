//! Names, parsed once at the edge and owned as proof (Q9).

use std::fmt;
use std::sync::Arc;

use crate::ids::PartitionIndex;

/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}; a name has 1 to {NAME_BYTES_MAX} of A-Z, a-z, 0-9, '_', '-', and single dots between them")]
pub struct NameError {
    /// The field of the request that carried the name.
    pub field: &'static str,
    /// What is wrong, without repeating the name.
    pub problem: NameProblem,
}

/// What is wrong with a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameProblem {
    /// Nothing there.
    #[error("the name is empty")]
    Empty,
    /// Longer than [`NAME_BYTES_MAX`].
    #[error("the name has {0} bytes, the limit is {NAME_BYTES_MAX}")]
    TooLong(usize),
    /// A byte outside the alphabet.
    #[error("byte {at} of the name is not allowed")]
    BadByte {
        /// Where, from 0.
        at: usize,
    },
    /// A dot at either end, or two in a row.
    #[error("a dot stands at an end of the name or beside another one")]
    BadDot,
    /// Too few parts, or too many.
    #[error("expected {expected}, found {found} part{}", if *.found == 1 { "" } else { "s" })]
    Parts {
        /// The parts of such a name.
        expected: &'static str,
        /// How many there are.
        found: usize,
    },
}

fn check(field: &'static str, name: &str) -> Result<(), NameError> {
    let problem = if name.is_empty() {
        NameProblem::Empty
    } else if name.len() > NAME_BYTES_MAX {
        NameProblem::TooLong(name.len())
    } else if let Some(at) = name.bytes().position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))) {
        NameProblem::BadByte { at }
    } else if name.starts_with('.') || name.ends_with('.') || name.contains("..") {
        NameProblem::BadDot
    } else {
        return Ok(());
    };
    Err(NameError { field, problem })
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $field:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses a name; the error names the field and the limit.
            pub fn parse(name: &str) -> Result<Self, NameError> {
                check($field, name)?;
                Ok(Self(name.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A tenant.
    TenantName, "tenant"
);
name!(
    /// The last part of a namespace's name.
    NamespacePart, "namespace"
);
name!(
    /// The last part of a topic's name.
    TopicPart, "topic"
);
name!(
    /// A subscription.
    SubscriptionName, "subscription"
);
name!(
    /// An idempotent producer.
    ProducerName, "producer"
);
name!(
    /// A bookie, as operators call it. Ensembles name it together with its incarnation (B11).
    BookieName, "bookie"
);
name!(
    /// A broker, as operators call it.
    BrokerName, "broker"
);
name!(
    /// A failure domain of bookies.
    ZoneName, "zone"
);

/// `tenant/namespace`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespaceName {
    tenant: TenantName,
    namespace: NamespacePart,
}

impl NamespaceName {
    /// Joins the two parts.
    pub const fn new(tenant: TenantName, namespace: NamespacePart) -> Self {
        Self { tenant, namespace }
    }

    /// Parses `tenant/namespace`.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        let parts: Vec<&str> = name.split('/').collect();
        match parts.as_slice() {
            [tenant, namespace] => Ok(Self::new(TenantName::parse(tenant)?, NamespacePart::parse(namespace)?)),
            _ => Err(NameError {
                field: "namespace",
                problem: NameProblem::Parts { expected: "tenant/namespace", found: parts.len() },
            }),
        }
    }

    /// The tenant it belongs to.
    pub const fn tenant(&self) -> &TenantName {
        &self.tenant
    }

    /// Its own part of the name.
    pub const fn part(&self) -> &NamespacePart {
        &self.namespace
    }
}

impl fmt::Display for NamespaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.namespace)
    }
}

impl fmt::Debug for NamespaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `tenant/namespace/topic`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName {
    namespace: NamespaceName,
    topic: TopicPart,
}

impl TopicName {
    /// Joins the parts.
    pub const fn new(namespace: NamespaceName, topic: TopicPart) -> Self {
        Self { namespace, topic }
    }

    /// Parses `tenant/namespace/topic`.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        let parts: Vec<&str> = name.splitn(9, '/').collect();
        match parts.as_slice() {
            [tenant, namespace, topic] => Ok(Self {
                namespace: NamespaceName::new(TenantName::parse(tenant)?, NamespacePart::parse(namespace)?),
                topic: TopicPart::parse(topic)?,
            }),
            _ => Err(NameError {
                field: "topic",
                problem: NameProblem::Parts { expected: "tenant/namespace/topic", found: parts.len() },
            }),
        }
    }

    /// The namespace it lies in.
    pub const fn namespace(&self) -> &NamespaceName {
        &self.namespace
    }

    /// Its own part of the name.
    pub const fn part(&self) -> &TopicPart {
        &self.topic
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.topic)
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One partition of a topic.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionName {
    /// The topic.
    pub topic: TopicName,
    /// Which of its partitions.
    pub index: PartitionIndex,
}

impl fmt::Display for PartitionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.topic, self.index)
    }
}

impl fmt::Debug for PartitionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_name_is_refused_with_its_field_and_reason() {
        for (name, problem) in [
            ("", NameProblem::Empty),
            ("a/b", NameProblem::BadByte { at: 1 }),
            ("..", NameProblem::BadDot),
            ("a..b", NameProblem::BadDot),
            ("a\0b", NameProblem::BadByte { at: 1 }),
            ("caf\u{e9}", NameProblem::BadByte { at: 3 }),
            (&"x".repeat(10_000), NameProblem::TooLong(10_000)),
        ] {
            assert_eq!(TenantName::parse(name), Err(NameError { field: "tenant", problem }));
        }
    }

    #[test]
    fn a_topic_has_exactly_three_parts() {
        assert_eq!(TopicName::parse("a/b/c.d").map(|t| t.to_string()), Ok("a/b/c.d".to_owned()));
        for (name, parts) in [("a", 1), ("a/b", 2), ("a/b/c/d", 4)] {
            assert_eq!(
                TopicName::parse(name),
                Err(NameError {
                    field: "topic",
                    problem: NameProblem::Parts { expected: "tenant/namespace/topic", found: parts }
                })
            );
        }
    }
}
