//! Questions to the kernel by netlink, for those who have no runtime to wait in.

use std::io;

use netlink_sys::{Socket, SocketAddr};
use rtnetlink::packet_core::{NetlinkDeserializable, NetlinkMessage, NetlinkPayload};

/// A socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Netlink(Socket);

impl Netlink {
    /// Opens it, for a protocol of `linux/netlink.h`.
    ///
    /// # Errors
    /// The kernel has none for the protocol.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Sends a message, which must ask for a dump or for an acknowledgement, and passes on what the
    /// kernel answers.
    ///
    /// # Errors
    /// What the kernel answers instead, or an answer that cannot be read.
    pub(crate) fn ask<T: NetlinkDeserializable>(
        &self,
        message: &[u8],
        mut take: impl FnMut(T),
    ) -> io::Result<()> {
        self.0.send(message, 0)?;
        loop {
            let (datagram, _) = self.0.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<T>::deserialize(rest).map_err(|error| {
                    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
                })?;
                let length = usize::try_from(answer.header.length).unwrap_or(usize::MAX);
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => take(inner),
                    NetlinkPayload::Done(done) if done.code == 0 => return Ok(()),
                    NetlinkPayload::Done(done) => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
                // Messages begin at multiples of four bytes (`NLMSG_ALIGN`).
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}
