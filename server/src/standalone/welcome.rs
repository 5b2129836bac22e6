//! What a person sees first.
#![expect(clippy::print_stderr, reason = "a word to the person who started it, beside the log")]

use std::net::SocketAddr;

/// Says where the server is and what to type next, in another terminal.
pub(super) fn print(client: SocketAddr, http: SocketAddr) {
    let server = if client.port() == 7650 { String::new() } else { format!(" --server http://{client}") };
    eprintln!(
        "\n  Alluvium serves clients on {client}; metrics on http://{http}/metrics\n\n  \
         Next, in another terminal:\n    \
         alluvium topic create public/default/greetings{server}\n    \
         echo hello | alluvium produce public/default/greetings{server}\n    \
         alluvium consume public/default/greetings --from earliest --count 1{server}\n"
    );
}
