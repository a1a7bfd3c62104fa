//! What three pods may do to each other, asked again and again while something else goes on: UDP and TCP,
//! both directions of each pair, an allowed and a forbidden port.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use crate::apiserver::{ApiServer, allow, pod};
use crate::node::{NODE, Node};
use crate::traffic::{CLIENT, SERVER, SOON};

/// Address of the pod `stranger`, which is there beside the client and the server.
const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 3);

const PODS: [(&str, Ipv4Addr); 3] =
    [("client", CLIENT), ("server", SERVER), ("stranger", STRANGER)];

/// The port that policies name, where they let anything through, and one that they do not.
const PORTS: [u16; 2] = [7000, 7001];

/// Who asks whom, and whether each of [`PORTS`] is open. The server and the stranger are isolated for
/// ingress, the stranger for egress too, the client not at all.
const TRUTH: [(&str, &str, [bool; 2]); 6] = [
    ("client", "server", [true, false]),
    ("server", "client", [true, true]),
    ("client", "stranger", [false, false]),
    ("stranger", "client", [true, false]),
    ("server", "stranger", [true, false]),
    ("stranger", "server", [false, false]),
];

/// For a connection that is forbidden: an allowed one takes a tenth of it.
const MOMENT: Duration = Duration::from_millis(20);

/// Adds the stranger to a node with a client and a server. Returns its object and the policies, for
/// whatever the agent watches.
pub fn add_stranger(node: &mut Node) -> Vec<Value> {
    node.add_pod("stranger", STRANGER);
    let [open, _] = PORTS;
    let egress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "from-strangers", "namespace": "x"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "stranger"}},
            "policyTypes": ["Egress"],
            "egress": [{
                "to": [{"podSelector": {"matchLabels": {"app": "client"}}}],
                "ports": [{"port": open, "protocol": "TCP"}, {"port": open, "protocol": "UDP"}],
            }],
        },
    });
    vec![
        pod("stranger", NODE, STRANGER, "stranger"),
        allow("clients-to-servers", "server", "client", open),
        allow("servers-to-strangers", "stranger", "server", open),
        egress,
    ]
}

/// The same with what an API server knows.
pub fn apply_stranger(node: &mut Node, server: &ApiServer) {
    let mut objects = add_stranger(node);
    server.apply_pod(objects.remove(0));
    objects.into_iter().for_each(|policy| server.apply(policy));
}

/// The question, asked until it is stopped.
#[derive(Debug)]
pub struct TruthTable {
    /// For those who ask.
    stop: Arc<AtomicBool>,
    /// For those who answer.
    close: Arc<AtomicBool>,
    asked: Vec<Arc<AtomicU64>>,
    wrong: Wrong,
    asking: Vec<JoinHandle<()>>,
    answering: Vec<JoinHandle<()>>,
}

/// What was judged against policy, and how often.
#[derive(Clone, Debug, Default)]
struct Wrong(Arc<Mutex<BTreeMap<String, u64>>>);

impl Wrong {
    fn note(&self, what: String) {
        *self.0.lock().expect("held shortly").entry(what).or_default() += 1;
    }
}

impl TruthTable {
    /// Begins to ask. The policies of [`add_stranger`] must be in force.
    ///
    /// # Panics
    /// Where a pod or a port cannot be had.
    pub fn start(node: &Node) -> Self {
        let mut table = Self {
            stop: Arc::default(),
            close: Arc::default(),
            asked: Vec::new(),
            wrong: Wrong::default(),
            asking: Vec::new(),
            answering: Vec::new(),
        };
        for (name, address) in PODS {
            let stations = node.inside(name, || PORTS.map(|port| Station::open(address, port)));
            let (close, wrong) = (table.close.clone(), table.wrong.clone());
            table.answering.push(std::thread::spawn(move || {
                while !close.load(Ordering::Relaxed) {
                    stations.iter().for_each(|station| station.answer(&wrong));
                    std::thread::sleep(Duration::from_micros(500));
                }
            }));
        }
        for (from, to, open) in TRUTH {
            let netns = File::open(node.netns_path(from)).expect("the namespace");
            let (stop, wrong, asked) = (table.stop.clone(), table.wrong.clone(), Arc::default());
            table.asked.push(Arc::clone(&asked));
            table.asking.push(std::thread::spawn(move || {
                setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).expect("entered");
                while !stop.load(Ordering::Relaxed) {
                    for (port, is_open) in PORTS.into_iter().zip(open) {
                        let question = Question { from, to, port, is_open };
                        question.ask_by_udp(&wrong);
                        question.ask_by_tcp(&wrong);
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                    // The machine has other things to do.
                    std::thread::sleep(Duration::from_millis(2));
                }
            }));
        }
        table
    }

    /// Stops it and checks that nothing was judged against policy.
    ///
    /// # Panics
    /// Where something was.
    pub fn check(self) {
        for (flag, threads) in [(self.stop, self.asking), (self.close, self.answering)] {
            flag.store(true, Ordering::Relaxed);
            threads.into_iter().for_each(|thread| thread.join().expect("it went well"));
        }
        let asked: Vec<u64> =
            self.asked.iter().map(|asked| asked.load(Ordering::Relaxed)).collect();
        println!("four questions each, so many times for each pair and direction: {asked:?}");
        assert!(asked.iter().all(|times| *times > 5), "{asked:?}");
        let wrong = self.wrong.0.lock().expect("nobody holds it").clone();
        assert_eq!(wrong, BTreeMap::new());
    }
}

/// One port of a pod. It sends back what is sent to it by UDP, and takes what connects.
struct Station {
    udp: UdpSocket,
    tcp: TcpListener,
}

const FORBIDDEN: &[u8] = b"forbidden";

impl Station {
    fn open(address: Ipv4Addr, port: u16) -> Self {
        let udp = UdpSocket::bind((address, port)).expect("bound");
        let tcp = TcpListener::bind((address, port)).expect("bound");
        udp.set_nonblocking(true).expect("set");
        tcp.set_nonblocking(true).expect("set");
        Self { udp, tcp }
    }

    fn answer(&self, wrong: &Wrong) {
        let mut buffer = [0; 32];
        while let Ok((length, from)) = self.udp.recv_from(&mut buffer) {
            if &buffer[..length] == FORBIDDEN {
                let to = self.udp.local_addr().expect("an address");
                wrong.note(format!("UDP {} → {to} let through", from.ip()));
            }
            // Its sender may have gone.
            let _ = self.udp.send_to(&buffer[..length], from);
        }
        while self.tcp.accept().is_ok() {}
    }
}

/// One cell of the table.
#[derive(Clone, Copy)]
struct Question {
    from: &'static str,
    to: &'static str,
    port: u16,
    is_open: bool,
}

impl Question {
    fn address_of(name: &str) -> Ipv4Addr {
        PODS.into_iter().find(|(pod, _)| *pod == name).expect("one of the pods").1
    }

    fn note(&self, wrong: &Wrong, protocol: &str, what: &str) {
        let Self { from, to, port, .. } = self;
        wrong.note(format!("{protocol} {from} → {to}:{port} {what}"));
    }

    /// On a new flow. One that is forbidden is noted where it comes to.
    fn ask_by_udp(&self, wrong: &Wrong) {
        let socket = UdpSocket::bind((Self::address_of(self.from), 0)).expect("bound");
        let to = (Self::address_of(self.to), self.port);
        if !self.is_open {
            socket.send_to(FORBIDDEN, to).expect("sent");
            return;
        }
        socket.set_read_timeout(Some(SOON)).expect("set");
        socket.send_to(b"allowed", to).expect("sent");
        if socket.recv(&mut [0; 32]).is_err() {
            self.note(wrong, "UDP", "lost");
        }
    }

    fn ask_by_tcp(&self, wrong: &Wrong) {
        let to = SocketAddr::from((Self::address_of(self.to), self.port));
        let patience = if self.is_open { SOON } else { MOMENT };
        match (TcpStream::connect_timeout(&to, patience), self.is_open) {
            (Ok(_), true) | (Err(_), false) => {}
            (Ok(_), false) => self.note(wrong, "TCP", "let through"),
            (Err(error), true) => self.note(wrong, "TCP", &format!("lost: {error}")),
        }
    }
}
