//! Lists come in pages.

use alluvium_proto::v1;
use alluvium_types::fault::Fault;
use alluvium_types::names::NameError;

use super::fault::Refused;

/// The most items of a page.
const ITEMS_MAX: usize = 1000;
/// How many there are if the caller doesn't say.
const ITEMS_DEFAULT: usize = 100;

/// The size asked for.
pub(super) fn size(page: Option<&v1::Page>) -> Result<usize, Refused> {
    match page.map_or(0, |p| p.size as usize) {
        0 => Ok(ITEMS_DEFAULT),
        size if size <= ITEMS_MAX => Ok(size),
        size => {
            Err(Fault::invalid("page.size", "PAGE_SIZE", format!("{size} items are asked for, the limit is {ITEMS_MAX}")).into())
        }
    }
}

/// Where the page begins: behind the name in its token.
pub(super) fn after<N>(page: Option<&v1::Page>, parse: impl Fn(&str) -> Result<N, NameError>) -> Result<Option<N>, Refused> {
    match page.map_or("", |p| p.token.as_str()) {
        "" => Ok(None),
        token => parse(token).map(Some).map_err(|_| bad_token()),
    }
}

/// A token that no page of ours gave.
pub(super) fn bad_token() -> Refused {
    Fault::invalid("page.token", "PAGE_TOKEN", "the token is not one that a page gave; begin without one").into()
}

/// The token of the next page; empty when there is none.
pub(super) fn token<N: std::fmt::Display>(next: Option<N>) -> String {
    next.map(|name| name.to_string()).unwrap_or_default()
}
