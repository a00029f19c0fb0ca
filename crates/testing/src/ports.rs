//! Ports for servers that are started later, stopped in between, or never come.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Mutex,
};

use tokio::net::TcpSocket;

/// A port on 127.0.0.1 where nobody listens; see [`free_port_on`].
pub fn free_port() -> u16 {
    free_port_on(Ipv4Addr::LOCALHOST)
}

/// A port on that address of this machine where nobody listens: connections are refused until somebody does, who may stop
/// and listen again.
///
/// It stays reserved while this process lives: the system gives it to no outgoing connection and to nobody else who
/// asks for any port. Servers listen on it all the same, of this process or another, as they set `SO_REUSEADDR` (so does
/// `TcpListener::bind`).
pub fn free_port_on(address: Ipv4Addr) -> u16 {
    static RESERVED: Mutex<Vec<TcpSocket>> = Mutex::new(Vec::new());
    let socket = reserve(SocketAddr::from((address, 0)));
    let port = socket.local_addr().unwrap().port();
    RESERVED.lock().unwrap().push(socket);
    port
}

/// Reserves that port, 0: any free one, for as long as the returned socket lives, as [`free_port_on`] does.
pub(crate) fn reserve(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    // Without it nobody could listen beside it.
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap_or_else(|error| panic!("cannot reserve a port: {address}: {error}"));
    socket
}

#[cfg(test)]
mod tests {
    use std::{
        io::ErrorKind,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn a_free_port_refuses_connections_whenever_nobody_listens_on_it() {
        let port = free_port();
        let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        for _ in 0..2 {
            assert_eq!(connect().unwrap_err().kind(), ErrorKind::ConnectionRefused);
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
            // The side that closes first keeps the port in TIME_WAIT, and that must not matter.
            let client = connect().unwrap();
            drop(listener.accept().unwrap());
            drop(client);
        }
    }

    /// Of 28,000 ports 200 are reserved and 600 are asked for: without a reservation about four would be given twice.
    #[test]
    fn nobody_else_is_given_a_reserved_port() {
        let reserved: Vec<u16> = (0..200).map(|_| free_port()).collect();
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = server.local_addr().unwrap();
        for _ in 0..300 {
            let client = TcpStream::connect(address).unwrap();
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            for given in [client.local_addr(), listener.local_addr()] {
                let port = given.unwrap().port();
                assert!(!reserved.contains(&port), "port {port} is reserved");
            }
            drop(server.accept().unwrap());
        }
    }
}
