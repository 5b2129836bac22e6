//! What commands print: tables for people, JSON for programs.

use std::collections::BTreeMap;
use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::exit::{Code, Failure};

/// The shape of what is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Table,
    /// One JSON document; of a stream, one a line.
    Json,
}

/// Something that can be shown either way.
pub(crate) trait Show: Serialize {
    /// The columns' names.
    fn columns() -> &'static [&'static str];
    /// One row.
    fn row(&self) -> Vec<String>;
}

impl Output {
    /// Prints one thing.
    pub(crate) fn one<T: Show>(self, value: &T) -> Result<(), Failure> {
        match self {
            Self::Json => json(value),
            Self::Table => table(std::slice::from_ref(value)),
        }
    }

    /// Prints a list: as a document, under the name of what it lists.
    pub(crate) fn many<T: Show>(self, name: &str, values: &[T]) -> Result<(), Failure> {
        match self {
            Self::Json => json(&BTreeMap::from([(name, values)])),
            Self::Table => table(values),
        }
    }

    /// Prints one thing that has parts: the parts follow as a table of their own.
    pub(crate) fn whole<T: Show, P: Show>(self, value: &T, parts: &[P]) -> Result<(), Failure> {
        match self {
            Self::Json => json(value),
            Self::Table => {
                table(std::slice::from_ref(value))?;
                print("\n")?;
                table(parts)
            }
        }
    }

    /// Says that something was done: a sentence, or a document.
    pub(crate) fn done(self, sentence: &str, document: &serde_json::Value) -> Result<(), Failure> {
        match self {
            Self::Json => json(document),
            Self::Table => print(&format!("{sentence}\n")),
        }
    }
}

fn json<T: Serialize + ?Sized>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
    print(&format!("{text}\n"))
}

fn table<T: Show>(values: &[T]) -> Result<(), Failure> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(T::columns());
    for value in values {
        table.add_row(value.row());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    print(&text)
}

/// Says something beside what is printed, to standard error.
pub(crate) fn warn(output: Output, sentence: &str, document: &serde_json::Value) {
    let text = match output {
        Output::Json => serde_json::json!({ "warning": document }).to_string(),
        Output::Table => format!("warning: {sentence}"),
    };
    // With standard error gone there is nobody left to tell.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints text. That nobody reads it any more is no failure of the command.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::io("cannot write to standard output", &error)),
        _ => Ok(()),
    }
}

/// A value, or a dash.
pub(crate) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
