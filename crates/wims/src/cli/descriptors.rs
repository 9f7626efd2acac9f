//! File descriptors: as many as the process may have, and how many of them are for connections.
//!
//! Promise: connections never take the last ones, which the journal, history and calls need. It
//! deliberately raises only the soft limit, which is what the hard one allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::http::server::CONNECTIONS_MAX;

/// For all that is no connection of a client: segments, history, the log's readers, payment calls
/// and the sandbox's side of them, mails.
const RESERVE: u64 = 256;
/// Connections of a thread, at least: who allows fewer descriptors than the reserve has few.
const CONNECTIONS_MIN: u64 = 16;

/// Raises the limit of descriptors, and says how many connections each thread may have at once.
pub fn connections_per_thread(threads: u32) -> usize {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    // A system that refuses leaves what there was.
    let _ = setrlimit(Resource::Nofile, raised);
    let descriptors = getrlimit(Resource::Nofile).current;
    let connections = share(descriptors, threads);
    if connections < CONNECTIONS_MAX {
        let connections = connections as u64 * u64::from(threads);
        tracing::info!(connections, descriptors, "there are fewer connections than usual");
    }
    connections
}

/// The connections of each thread when there are so many descriptors; none is any number.
fn share(descriptors: Option<u64>, threads: u32) -> usize {
    let Some(descriptors) = descriptors else { return CONNECTIONS_MAX };
    let each = descriptors.saturating_sub(RESERVE) / u64::from(threads.max(1));
    let each = each.max(CONNECTIONS_MIN);
    usize::try_from(each).map_or(CONNECTIONS_MAX, |each| each.min(CONNECTIONS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_the_reserve_and_are_never_none() {
        assert_eq!(share(None, 2), CONNECTIONS_MAX);
        assert_eq!(share(Some(1 << 20), 2), CONNECTIONS_MAX);
        assert_eq!(share(Some(1_024), 2), 384);
        assert_eq!(share(Some(300), 2), 22);
        assert_eq!(share(Some(64), 2), 16);
    }
}
