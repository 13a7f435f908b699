"""The states of a port while it is probed, in the order in which one overrules another."""

# Not sent yet; sent and waited for; sent in vain, to be sent again.
FRESH, FLYING, WAITING = 0, 1, 2
# What is settled. A SYN-ACK outweighs an RST, which outweighs an ICMP error: firewalls answer for others.
FILTERED, CLOSED, OPEN = 3, 4, 5

# No state: the kind of an answer that this machine made itself, to a probe that it did not send.
UNSENT = 0
