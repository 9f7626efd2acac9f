//! A disk that is full when the next segment is to be prepared: what is new is refused and told
//! why, what is there is shown, and room again is enough.
//!
//! A limit on the size of files would be met by commits as well, so a folder stands where the next
//! segment would be. That answers to calls already made are taken is shown by unit tests of the
//! runtime.

use crate::harness::{Server, await_condition};

/// The first segment that a new data directory has not prepared.
const NEXT_SEGMENT: &str = "data/journal/00000000000000000005.seg";
const DETAIL: &str = "no journal segment could be prepared; is the disk full?";

/// Places orders until one is refused for want of a segment; those that were taken.
fn fill(server: &Server, body: &str) -> Vec<String> {
    let mut taken = Vec::new();
    loop {
        let (status, reply) = server.post("/orders", body.to_owned());
        if status != 200 {
            assert_eq!((status, reply["detail"].as_str()), (503, Some(DETAIL)), "{reply}");
            return taken;
        }
        taken.push(reply["orderId"].as_str().expect("an id").to_owned());
        assert!(taken.len() < 20_000, "the disk never was full");
    }
}

#[test]
fn with_no_room_for_a_segment_orders_are_refused_and_reads_go_on_until_there_is_room_again() {
    // What fails is one segment, and it is told as an error.
    let mut server = Server::start("full-disk", &[]).may_fail();
    let obstacle = server.folder.join(NEXT_SEGMENT);
    std::fs::create_dir(&obstacle).expect("it is not prepared yet");
    let body = format!(r#"{{"customerId":"{}","quantity":1}}"#, "x".repeat(128));
    let mut taken = fill(&server, &body);

    let refused = server.posted("/orders", &body, &[]);
    assert_eq!(refused.status().as_u16(), 503);
    assert_eq!(refused.headers()["retry-after"], "1");
    let (status, problem) = server.get("/readyz");
    assert_eq!((status, problem["detail"].as_str()), (503, Some(DETAIL)), "{problem}");
    assert!(server.log().contains("no journal segment could be prepared"), "{}", server.log());
    for order in [taken.first(), taken.last()].into_iter().flatten() {
        assert_eq!(server.get(&format!("/orders/{order}")).0, 200, "{order}");
    }
    assert_eq!(server.get("/inventory").1["reserved"], taken.len());

    std::fs::remove_dir(&obstacle).expect("it is empty");
    await_condition("orders to be taken again", || {
        let (status, reply) = server.post("/orders", body.clone());
        taken.extend(reply["orderId"].as_str().map(str::to_owned));
        status == 200
    });
    assert_eq!(server.get("/readyz").0, 200);

    server.process.kill();
    let server = Server::in_folder(server.into_folder(), &[]);
    for order in &taken {
        assert_eq!(server.get(&format!("/orders/{order}")).0, 200, "{order}");
    }
    await_condition("what was taken, and nothing else, to be reserved", || {
        server.get("/inventory").1["reserved"] == taken.len()
    });
}
