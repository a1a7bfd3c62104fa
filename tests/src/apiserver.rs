//! A real API server with its etcd, in the network namespace of a test.
//!
//! Both are processes of the test, on loopback addresses that nobody else can reach. What is asked of
//! them is asked by a thread in that namespace.

mod cluster;
mod etcd;
mod objects;
mod watcher;

use std::fmt;
use std::fs;
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kube::{Client, Config};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

pub use self::cluster::{cluster, shipped};
pub use self::objects::{allow, namespace, node, pod};
pub use self::watcher::Watcher;

/// For a server to become ready; it takes 3 to 15 s on two busy cores.
const PATIENCE: Duration = Duration::from_secs(90);

const SERVER: &str = "https://127.0.0.1:6443";
const READY: &str = "/readyz";

/// Who may do anything.
const ADMIN_TOKEN: &str = "admin-of-a-test";
/// Someone whose rights come from RBAC alone.
const USER_TOKEN: &str = "user-of-a-test";
/// That someone's name.
pub const USER: &str = "restricted";

/// The folder with `kube-apiserver` and `etcd`, or why there is none.
///
/// # Errors
/// One line for people.
///
/// # Panics
/// Where a folder is given that lacks one: a test that was asked for is not left out.
pub fn assets() -> Result<PathBuf, String> {
    let has_all = |folder: &PathBuf| {
        ["kube-apiserver", "etcd"].iter().all(|program| folder.join(program).is_file())
    };
    if let Some(given) = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) {
        let shown = given.display();
        assert!(has_all(&given), "KUBEBUILDER_ASSETS is {shown}, without kube-apiserver or etcd");
        return Ok(given);
    }
    let cache =
        std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/sluice/kubernetes"));
    cache.filter(has_all).ok_or_else(|| {
        "skipped: there is no kube-apiserver and etcd; set KUBEBUILDER_ASSETS to a folder with both, \
         or install go and run `cargo xtask setup`"
            .into()
    })
}

/// What [`assets`] finds; says why there is nothing where there is nothing.
pub fn assets_or_say_so() -> Option<PathBuf> {
    assets().inspect_err(|reason| println!("{reason}")).ok()
}

/// A running API server. Its processes end when it is dropped.
pub struct ApiServer {
    netns: PathBuf,
    assets: PathBuf,
    directory: tempfile::TempDir,
    etcd: Option<Process>,
    server: Option<Process>,
    /// Further arguments of the API server.
    arguments: Vec<String>,
    runtime: Runtime,
    client: Option<Client>,
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer").field("netns", &self.netns).finish_non_exhaustive()
    }
}

/// A process that is killed when it is dropped.
#[derive(Debug)]
struct Process(Child);

impl Process {
    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("signalled");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A thread in the namespace that runs futures.
#[derive(Debug)]
pub(crate) struct Runtime {
    pub(crate) handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Runtime {
    pub(crate) fn new(netns: &Path) -> Self {
        let netns = fs::File::open(netns).expect("the namespace");
        let (sender, receiver) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).expect("entered");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime");
            sender.send(runtime.handle().clone()).expect("the test waits for it");
            let _ = runtime.block_on(stopped);
        });
        let handle = receiver.recv().expect("the thread has entered the namespace");
        Self { handle, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl ApiServer {
    /// Starts etcd and an API server in a network namespace whose loopback interface is up; `assets`
    /// is what [`assets`] found.
    ///
    /// # Panics
    /// Where they do not become ready.
    pub fn start(netns: &Path, assets: PathBuf) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let tokens = format!("{ADMIN_TOKEN},admin,1,\"system:masters\"\n{USER_TOKEN},{USER},2\n");
        fs::write(directory.path().join("tokens.csv"), tokens).expect("written");
        let key = rcgen::KeyPair::generate().expect("a key");
        fs::write(directory.path().join("accounts.key"), key.serialize_pem()).expect("written");
        fs::write(directory.path().join("accounts.pub"), key.public_key_pem()).expect("written");
        let mut server = Self {
            netns: netns.to_owned(),
            assets,
            directory,
            etcd: None,
            server: None,
            arguments: Vec::new(),
            runtime: Runtime::new(netns),
            client: None,
        };
        server.start_etcd();
        server.start_server();
        server.client = Some(server.client_of(ADMIN_TOKEN));
        for namespace in ["default", "kube-system"] {
            server.wait_for_namespace(namespace);
        }
        server
    }

    fn spawn(&self, program: &str, arguments: &[String]) -> Process {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("{program}.log")))
            .expect("a log");
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.netns.display()))
            .arg(self.assets.join(program))
            .args(arguments)
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .stdin(Stdio::null());
        Process(command.spawn().expect("started"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn start_etcd(&mut self) {
        let data = self.path("etcd").display().to_string();
        let arguments = [
            "--name=test",
            &format!("--data-dir={data}"),
            "--unsafe-no-fsync",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            "--initial-cluster=test=http://127.0.0.1:2380",
            "--log-level=error",
        ];
        self.etcd = Some(self.spawn("etcd", &arguments.map(str::to_owned)));
        self.wait_for_port(2379, "etcd");
    }

    /// Starts the API server again after [`Self::stop_server`].
    ///
    /// # Panics
    /// Where it does not become ready.
    pub fn start_server(&mut self) {
        let path = |name: &str| self.path(name).display().to_string();
        let mut arguments = vec![
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            "--secure-port=6443".to_owned(),
            format!("--cert-dir={}", path("certificates")),
            format!("--token-auth-file={}", path("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            format!("--service-account-key-file={}", path("accounts.pub")),
            format!("--service-account-signing-key-file={}", path("accounts.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            // There are no controllers that would make the accounts of pods.
            "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--max-requests-inflight=800".to_owned(),
        ];
        arguments.extend(self.arguments.iter().cloned());
        let process = self.spawn("kube-apiserver", &arguments);
        self.server = Some(process);
        self.wait_until_ready();
    }

    /// Starts it with a further argument from now on.
    pub fn add_argument(&mut self, argument: &str) {
        self.arguments.push(argument.into());
    }

    /// Kills the API server; etcd goes on.
    ///
    /// # Panics
    /// Where it is not running.
    pub fn stop_server(&mut self) {
        drop(self.server.take().expect("the API server runs"));
    }

    /// Stops the API server in the middle of whatever it does: connections stay and nothing answers.
    ///
    /// # Panics
    /// Where it is not running.
    pub fn freeze_server(&self) {
        self.server.as_ref().expect("the API server runs").signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// Where it is not running.
    pub fn thaw_server(&self) {
        self.server.as_ref().expect("the API server runs").signal(Signal::SIGCONT);
    }

    fn wait_for_port(&self, port: u16, who: &str) {
        let begun = Instant::now();
        while !self.inside(move || TcpStream::connect(("127.0.0.1", port)).is_ok()) {
            assert!(begun.elapsed() < PATIENCE, "{who} does not listen:\n{}", self.log(who));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn wait_until_ready(&mut self) {
        let begun = Instant::now();
        loop {
            let process = self.server.as_mut().expect("the API server was started");
            let ended = process.0.try_wait().expect("a child");
            assert!(ended.is_none(), "it has ended:\n{}", self.log("kube-apiserver"));
            // Its certificate is there before it listens, but not at once.
            if !self.path("certificates/apiserver.crt").is_file() {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
            let client = self.client_of(ADMIN_TOKEN);
            let ready = self.run(async move {
                let request = http::Request::get(READY).body(Vec::new()).expect("a request");
                client.request_text(request).await
            });
            match ready {
                Ok(_) => return,
                Err(error) => assert!(
                    begun.elapsed() < PATIENCE,
                    "not ready: {error}\n{}",
                    self.log("kube-apiserver")
                ),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn wait_for_namespace(&self, name: &str) {
        let begun = Instant::now();
        while self.get("Namespace", name).is_none() {
            assert!(begun.elapsed() < PATIENCE, "there is no namespace {name}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The end of what a program has logged.
    pub fn log(&self, program: &str) -> String {
        let text = fs::read_to_string(self.path(&format!("{program}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Runs a future in the namespace and waits for it.
    ///
    /// # Panics
    /// Where it does.
    pub fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        self.runtime.handle.spawn(async move {
            let _ = sender.send(future.await);
        });
        receiver.recv().expect("it has not panicked")
    }

    fn inside<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> T {
        self.run(async move { call() })
    }

    /// A kubeconfig of who may do anything.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.kubeconfig("admin", ADMIN_TOKEN)
    }

    /// A kubeconfig of [`USER`].
    pub fn user_kubeconfig(&self) -> PathBuf {
        self.kubeconfig(USER, USER_TOKEN)
    }

    /// A kubeconfig with a bearer token.
    ///
    /// # Panics
    /// Where it cannot be written.
    pub fn kubeconfig(&self, name: &str, token: &str) -> PathBuf {
        let path = self.path(&format!("{name}.kubeconfig"));
        let authority = self.path("certificates/apiserver.crt");
        let text = format!(
            "apiVersion: v1
kind: Config
current-context: test
contexts: [{{name: test, context: {{cluster: test, user: {name}}}}}]
clusters: [{{name: test, cluster: {{server: \"{SERVER}\", certificate-authority: {}}}}}]
users: [{{name: {name}, user: {{token: {token}}}}}]
",
            authority.display()
        );
        fs::write(&path, text).expect("written");
        path
    }

    /// How to reach the server as who a kubeconfig says.
    ///
    /// # Panics
    /// Where the file cannot be used.
    pub fn config(&self, kubeconfig: PathBuf) -> Config {
        self.run(async move { sluice::source::kube::config(Some(&kubeconfig)).await })
            .expect("a configuration")
    }

    fn client_of(&self, token: &str) -> Client {
        let config = self.config(self.kubeconfig("client", token));
        self.run(async move { Client::try_from(config) }).expect("a client")
    }

    fn client(&self) -> Client {
        self.client.clone().expect("the server was ready once")
    }
}
