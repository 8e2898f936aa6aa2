class PeerLoop:
    closed: bool
