//! Servers by name, kept in a file below the user's configuration folder.

use std::collections::BTreeMap;
use std::path::PathBuf;

use alluvium_client::Client;
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::command::Common;
use crate::exit::{Code, Failure, program};
use crate::output::Show;

#[derive(Debug, Subcommand)]
pub(crate) enum Context {
    /// Add a server, or change the one of that name
    Add {
        /// What it is called
        name: String,
        /// Where it is, such as http://127.0.0.1:7650
        url: String,
        /// Use it from now on, as the first one is in any case
        #[arg(long = "use")]
        use_it: bool,
    },
    /// Use this server from now on
    Use {
        /// What it is called
        name: String,
    },
    /// List the servers
    List,
    /// Forget a server
    Delete {
        /// What it is called
        name: String,
    },
}

/// The file.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Contexts {
    current: Option<String>,
    contexts: BTreeMap<String, Entry>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    server: String,
}

#[derive(Serialize)]
struct Row {
    name: String,
    server: String,
    current: bool,
}

impl Show for Row {
    fn columns() -> &'static [&'static str] {
        &["CURRENT", "NAME", "SERVER"]
    }

    fn row(&self) -> Vec<String> {
        vec![if self.current { "*" } else { "" }.to_owned(), self.name.clone(), self.server.clone()]
    }
}

impl Context {
    pub(crate) async fn run(self, common: &Common) -> Result<(), Failure> {
        let output = common.output;
        let mut contexts = Contexts::load().await?;
        match self {
            Self::Add { name, url, use_it } => {
                Client::check_address(&url)?;
                if use_it || contexts.current.is_none() {
                    contexts.current = Some(name.clone());
                }
                contexts.contexts.insert(name.clone(), Entry { server: url.clone() });
                contexts.save().await?;
                let current = contexts.current.as_ref() == Some(&name);
                let used = if current { ", and is used from now on" } else { "" };
                let document = json!({ "name": name, "server": url, "current": current });
                output.done(&format!("context {name} is {url}{used}"), &document)
            }
            Self::Use { name } => {
                let server = contexts.server(&name)?;
                contexts.current = Some(name.clone());
                contexts.save().await?;
                output.done(&format!("using {name}: {server}"), &json!({ "name": name, "server": server }))
            }
            Self::List => {
                let current = contexts.current;
                let row =
                    |(name, entry): (String, Entry)| Row { current: current.as_ref() == Some(&name), server: entry.server, name };
                output.many("contexts", &contexts.contexts.into_iter().map(row).collect::<Vec<_>>())
            }
            Self::Delete { name } => {
                contexts.server(&name)?;
                contexts.contexts.remove(&name);
                contexts.current = contexts.current.filter(|current| *current != name);
                contexts.save().await?;
                output.done(&format!("context {name} is forgotten"), &json!({ "name": name }))
            }
        }
    }
}

impl Contexts {
    fn path() -> Result<PathBuf, Failure> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
        let folder = folder.ok_or_else(|| {
            Failure::new(Code::Config, "there is no place for contexts").because("neither XDG_CONFIG_HOME nor HOME is set")
        })?;
        Ok(folder.join("alluvium").join("contexts.toml"))
    }

    /// Reads the file; nothing is there before the first context.
    pub(crate) async fn load() -> Result<Self, Failure> {
        let Ok(path) = Self::path() else { return Ok(Self::default()) };
        let text = match tokio::fs::read_to_string(&path).await {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Failure::io(format!("cannot read {}", path.display()), &error)),
        };
        toml::from_str(&text).map_err(|error| {
            let what = format!("{} is not a list of contexts", path.display());
            Failure::new(Code::Config, what).because(error).advise("correct it, or delete it and add the contexts again")
        })
    }

    async fn save(&self) -> Result<(), Failure> {
        let path = Self::path()?;
        let failed = |error| Failure::io(format!("cannot write {}", path.display()), &error);
        let text = toml::to_string(self).map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
        if let Some(folder) = path.parent() {
            tokio::fs::create_dir_all(folder).await.map_err(failed)?;
        }
        // Whole or not at all.
        let new = path.with_extension(format!("new-{}", std::process::id()));
        tokio::fs::write(&new, text).await.map_err(failed)?;
        tokio::fs::rename(&new, &path).await.map_err(failed)
    }

    /// The server of a context.
    pub(crate) fn server(&self, name: &str) -> Result<String, Failure> {
        let entry = self.contexts.get(name).map(|entry| entry.server.clone());
        entry.ok_or_else(|| {
            Failure::usage(format!("there is no context {name}"))
                .advise(format!("see which there are: {} context list", program()))
        })
    }

    /// The context in use, if one is.
    pub(crate) fn current(&self) -> Option<&str> {
        self.current.as_deref()
    }

    /// What a context is, and where that is written.
    pub(crate) fn origin(&self, name: &str) -> String {
        let file = Self::path().map(|path| format!(", from {}", path.display())).unwrap_or_default();
        format!("context {name}{file}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_back_as_it_was_and_unknown_keys_are_refused() {
        let entry = Entry { server: "http://10.0.0.1:7650".to_owned() };
        let contexts = Contexts { current: Some("prod".to_owned()), contexts: BTreeMap::from([("prod".to_owned(), entry)]) };
        let text = toml::to_string(&contexts).expect("serializes");
        assert_eq!(toml::from_str::<Contexts>(&text), Ok(contexts));
        assert!(toml::from_str::<Contexts>("currant = 'prod'").is_err());
    }
}
