//! A client and a server in pods, and traffic between them that goes on while agents come and go.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::node::{Node, allow_clients, pod};

/// Address of the pod `client`.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// Address of the pod `server`.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

/// The port that policy lets the client reach.
pub const OPEN: u16 = 80;
/// A port that it does not.
pub const SHUT: u16 = 81;

/// Long for a packet on this machine, short for a person.
pub const SOON: Duration = Duration::from_secs(1);

/// A client, a server that only clients reach on [`OPEN`], and no agent yet. `binary` is the agent's.
pub fn client_and_server(binary: &str) -> Node {
    let mut node = Node::new(binary);
    node.add_pod("client", CLIENT);
    node.add_pod("server", SERVER);
    node.write("client.yaml", &pod("client", CLIENT, "{app: client}"));
    node.write("server.yaml", &pod("server", SERVER, "{app: server}"));
    node.write("policy.yaml", &allow_clients(OPEN));
    node
}

/// A socket in a pod, which waits at most [`SOON`].
///
/// # Panics
/// Where the pod or the port cannot be had.
pub fn bind(node: &Node, pod: &str, address: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = node.inside(pod, || UdpSocket::bind((address, port))).expect("bound");
    socket.set_read_timeout(Some(SOON)).expect("set");
    socket
}

/// Sends one datagram from a new socket in a pod, and says whether it came.
///
/// # Panics
/// Where it cannot be sent.
pub fn reaches(node: &Node, from: &str, server: &UdpSocket) -> bool {
    let to = server.local_addr().expect("an address");
    let client = node.inside(from, || UdpSocket::bind("0.0.0.0:0")).expect("bound");
    let sent = format!("from {}", client.local_addr().expect("an address"));
    client.send_to(sent.as_bytes(), to).expect("sent");
    server.set_read_timeout(Some(Duration::from_millis(300))).expect("set");
    let mut buffer = [0; 64];
    while let Ok(length) = server.recv(&mut buffer) {
        if &buffer[..length] == sent.as_bytes() {
            return true;
        }
    }
    false
}

/// Traffic that goes on until it is stopped.
#[derive(Debug)]
pub struct Traffic {
    /// For those who send first.
    stop: Arc<AtomicBool>,
    /// For those who answer: a datagram on its way when the senders stop still gets its answer.
    close: Arc<AtomicBool>,
    exchanged: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
    forbidden: Arc<AtomicU64>,
    senders: Vec<JoinHandle<()>>,
    receivers: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Allowed datagrams one by one, each answered, on new flows again and again; forbidden ones all
    /// the time; and one connection that stays open.
    ///
    /// # Panics
    /// Where it cannot begin.
    pub fn start(node: &Node) -> Self {
        let mut traffic = Self {
            stop: Arc::default(),
            close: Arc::default(),
            exchanged: Arc::default(),
            lost: Arc::default(),
            forbidden: Arc::default(),
            senders: Vec::new(),
            receivers: Vec::new(),
        };
        let echo = bind(node, "server", SERVER, OPEN);
        traffic.receive(move || {
            let mut buffer = [0; 64];
            if let Ok((length, from)) = echo.recv_from(&mut buffer) {
                echo.send_to(&buffer[..length], from).expect("answered");
            }
        });
        let clients: Vec<UdpSocket> =
            (0..64).map(|i| bind(node, "client", CLIENT, 20_000 + i)).collect();
        let (exchanged, lost) = (traffic.exchanged.clone(), traffic.lost.clone());
        traffic.send(move |round| {
            let client = &clients[round as usize % clients.len()];
            let mut buffer = [0; 64];
            client.send_to(&round.to_be_bytes(), (SERVER, OPEN)).expect("sent");
            match client.recv(&mut buffer) {
                Ok(length) if buffer[..length] == round.to_be_bytes() => {
                    exchanged.fetch_add(1, Ordering::Relaxed);
                }
                _ => {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        traffic.shut(node);
        traffic.connection(node);
        traffic
    }

    fn shut(&mut self, node: &Node) {
        let shut = bind(node, "server", SERVER, SHUT);
        let forbidden = self.forbidden.clone();
        self.receive(move || {
            if shut.recv(&mut [0; 64]).is_ok() {
                forbidden.fetch_add(1, Ordering::Relaxed);
            }
        });
        let sender = bind(node, "client", CLIENT, 30_000);
        self.send(move |_| {
            sender.send_to(b"forbidden", (SERVER, SHUT)).expect("sent");
            std::thread::sleep(Duration::from_micros(200));
        });
    }

    fn connection(&mut self, node: &Node) {
        let listener = node
            .inside("server", || TcpListener::bind(SocketAddr::from((SERVER, OPEN))))
            .expect("bound");
        let to = SocketAddr::from((SERVER, OPEN));
        let mut near =
            node.inside("client", || TcpStream::connect_timeout(&to, SOON)).expect("connected");
        let (mut far, _) = listener.accept().expect("accepted");
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
            stream.set_nodelay(true).expect("set");
        }
        self.send(move |round| {
            let mut buffer = [0; 8];
            near.write_all(&round.to_be_bytes()).expect("the connection lives");
            far.read_exact(&mut buffer).expect("the connection lives");
            far.write_all(&buffer).expect("the connection lives");
            near.read_exact(&mut buffer).expect("the connection lives");
            assert_eq!(buffer, round.to_be_bytes());
            std::thread::sleep(Duration::from_millis(1));
        });
    }

    /// Repeats `step` with a growing number until the traffic is stopped.
    fn send(&mut self, mut step: impl FnMut(u64) + Send + 'static) {
        let stop = self.stop.clone();
        self.senders.push(std::thread::spawn(move || {
            (0..).take_while(|_| !stop.load(Ordering::Relaxed)).for_each(&mut step);
        }));
    }

    /// Repeats `step` until all senders have stopped.
    fn receive(&mut self, mut step: impl FnMut() + Send + 'static) {
        let close = self.close.clone();
        self.receivers.push(std::thread::spawn(move || {
            while !close.load(Ordering::Relaxed) {
                step();
            }
        }));
    }

    /// Stops it and checks that nothing was judged against policy.
    ///
    /// # Panics
    /// Where something was.
    pub fn check(self) {
        for (flag, threads) in [(self.stop, self.senders), (self.close, self.receivers)] {
            flag.store(true, Ordering::Relaxed);
            for thread in threads {
                thread.join().expect("the traffic went well");
            }
        }
        let exchanged = self.exchanged.load(Ordering::Relaxed);
        println!("{exchanged} allowed datagrams answered");
        assert!(exchanged > 100, "only {exchanged} allowed datagrams were answered");
        assert_eq!(self.lost.load(Ordering::Relaxed), 0, "allowed datagrams lost");
        assert_eq!(self.forbidden.load(Ordering::Relaxed), 0, "forbidden datagrams let through");
    }
}
