//! Integration tests: the real binary, through the doors a user takes. One module a promise.

mod answering;
mod backorders;
mod bad_days;
mod bad_input;
mod command_line;
mod declaration;
mod directory;
mod durability;
mod faults;
mod flow;
mod full_disk;
mod harness;
mod house;
mod kill;
mod limits;
mod observer;
mod payments;
mod payments_api;
mod smtp;
mod stop;
