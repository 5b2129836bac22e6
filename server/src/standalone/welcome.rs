//! What a person sees first.
#![expect(clippy::print_stderr, reason = "a word to the person who started it, beside the log")]

use std::net::SocketAddr;

/// How the binary was called by what started it, such as a script; `alluvium` otherwise.
const COMMAND: &str = "ALLUVIUM_COMMAND";

/// Says where the server is and what to type next, in another terminal.
pub(super) fn print(client: SocketAddr, http: SocketAddr) {
    let server = if client.port() == 7650 { String::new() } else { format!(" --server http://{client}") };
    let command = std::env::var(COMMAND).unwrap_or_else(|_| "alluvium".to_owned());
    eprintln!(
        "\n  Alluvium serves clients on {client}; metrics on http://{http}/metrics\n\n  \
         Next, in another terminal:\n    \
         {command} topic create public/default/greetings{server}\n    \
         echo hello | {command} produce public/default/greetings{server}\n    \
         {command} consume public/default/greetings --from earliest --count 1{server}\n"
    );
}
