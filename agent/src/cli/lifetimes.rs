//! `sluice agent --flow-…`: how long flows are remembered.

use clap::Args;
use clap::builder::RangedU64ValueParser;
use sluice_common::abi::Lifetimes;

/// A year: whoever asks for more means something else.
const SECONDS_MAX: u64 = 31_536_000;

/// The flags. Their defaults, and why, are those of [`Lifetimes::STANDARD`].
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Seconds after its last packet for which a flow is remembered")]
pub(super) struct LifetimeArgs {
    /// TCP and SCTP until both ends have answered each other
    #[arg(long, value_name = "SECONDS", env = "SLUICE_FLOW_OPENING", value_parser = seconds())]
    #[arg(default_value_t = Lifetimes::STANDARD.opening)]
    flow_opening: u32,
    /// TCP and SCTP once they have, or policy took them back; the node's NAT keeps them five days, too
    #[arg(long, value_name = "SECONDS", env = "SLUICE_FLOW_ESTABLISHED", value_parser = seconds())]
    #[arg(default_value_t = Lifetimes::STANDARD.established)]
    flow_established: u32,
    /// TCP and SCTP that were closed or reset
    #[arg(long, value_name = "SECONDS", env = "SLUICE_FLOW_CLOSING", value_parser = seconds())]
    #[arg(default_value_t = Lifetimes::STANDARD.closing)]
    flow_closing: u32,
    /// UDP without an answer
    #[arg(long, value_name = "SECONDS", env = "SLUICE_FLOW_UDP_OPENING", value_parser = seconds())]
    #[arg(default_value_t = Lifetimes::STANDARD.udp_opening)]
    flow_udp_opening: u32,
    /// UDP that was answered, or that policy took back
    #[arg(long, value_name = "SECONDS", env = "SLUICE_FLOW_UDP", value_parser = seconds())]
    #[arg(default_value_t = Lifetimes::STANDARD.udp)]
    flow_udp: u32,
    /// ICMP echo
    #[arg(long, value_name = "SECONDS", env = "SLUICE_FLOW_ECHO", value_parser = seconds())]
    #[arg(default_value_t = Lifetimes::STANDARD.echo)]
    flow_echo: u32,
}

fn seconds() -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(1..=SECONDS_MAX)
}

impl From<LifetimeArgs> for Lifetimes {
    fn from(arguments: LifetimeArgs) -> Self {
        let LifetimeArgs {
            flow_opening: opening,
            flow_established: established,
            flow_closing: closing,
            flow_udp_opening: udp_opening,
            flow_udp: udp,
            flow_echo: echo,
        } = arguments;
        Self { opening, established, closing, udp_opening, udp, echo }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        lifetimes: LifetimeArgs,
    }

    fn parsed(words: &[&str]) -> Result<Lifetimes, clap::Error> {
        let words = std::iter::once("sluice").chain(words.iter().copied());
        Alone::try_parse_from(words).map(|alone| alone.lifetimes.into())
    }

    #[test]
    fn what_is_not_asked_for_is_the_standard() {
        assert_eq!(parsed(&[]).expect("valid"), Lifetimes::STANDARD);
        let asked = ["--flow-established", "7200", "--flow-udp-opening=5"];
        let expected = Lifetimes { established: 7200, udp_opening: 5, ..Lifetimes::STANDARD };
        assert_eq!(parsed(&asked).expect("valid"), expected);
    }

    #[test]
    fn no_flow_is_remembered_for_no_time_or_for_more_than_a_year() {
        for wrong in ["0", "31536001", "-1", "5m"] {
            assert!(parsed(&["--flow-udp", wrong]).is_err(), "{wrong}");
        }
    }
}
