// Connects and sends as the tests of package endpoint say, and ends at once.
//
//	act [-l LOGINUID] [-n] [-r] [-s] [-w MS] tcp|udp|connected|dns ADDRESS PORT [PORT…]
//	act as PID PROGRAM [ARGUMENT…]
//
// -n does not wait for a connect, -r removes the program first, -s writes zeros over the
// arguments first, -w waits before the end. "as" runs a program with a pid of one's choice.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char question[] =
	"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03WwW\x07" "Example\x03net\x00\x00\x01\x00\x01";

static int as(int argc, char **argv)
{
	pid_t pid = atoi(argv[2]);
	struct clone_args how = {.exit_signal = SIGCHLD, .set_tid = (uintptr_t)&pid, .set_tid_size = 1};
	long child = syscall(SYS_clone3, &how, sizeof how);
	if (child < 0) {
		perror("clone3");
		return 1;
	}
	if (child == 0) {
		execv(argv[3], argv + 3);
		_exit(127);
	}
	int status;
	return waitpid(child, &status, 0) < 0 || status != 0;
}

int main(int argc, char **argv)
{
	if (argc > 3 && !strcmp(argv[1], "as"))
		return as(argc, argv);
	int option, flags = 0, wait = 0, scrub = 0;
	while ((option = getopt(argc, argv, "l:nrsw:")) != -1)
		switch (option) {
		case 'l': {
			int f = open("/proc/self/loginuid", O_WRONLY);
			if (f < 0 || write(f, optarg, strlen(optarg)) < 0)
				return perror("loginuid"), 1;
			close(f);
			break;
		}
		case 'n': flags = SOCK_NONBLOCK; break;
		case 'r': unlink(argv[0]); break;
		case 's': scrub = 1; break;
		case 'w': wait = atoi(optarg); break;
		default: return 2;
		}
	char *kind = strdup(argv[optind]), *address = strdup(argv[optind + 1]);
	int six = strchr(address, ':') != NULL, stream = !strcmp(kind, "tcp");
	int s = socket(six ? AF_INET6 : AF_INET, (stream ? SOCK_STREAM : SOCK_DGRAM) | flags, 0);
	if (s < 0)
		return perror("socket"), 1;
	for (int i = optind + 2; i < argc; i++) {
		union {
			struct sockaddr any;
			struct sockaddr_in v4;
			struct sockaddr_in6 v6;
		} to = {0};
		socklen_t size = six ? sizeof to.v6 : sizeof to.v4;
		in_port_t port = htons(atoi(argv[i]));
		if (six) {
			to.v6.sin6_family = AF_INET6;
			to.v6.sin6_port = port;
			inet_pton(AF_INET6, address, &to.v6.sin6_addr);
		} else {
			to.v4.sin_family = AF_INET;
			to.v4.sin_port = port;
			inet_pton(AF_INET, address, &to.v4.sin_addr);
		}
		if (scrub && i == argc - 1)
			for (int k = 0; k < argc; k++)
				memset(argv[k], 0, strlen(argv[k]));
		int done;
		if (stream)
			done = connect(s, &to.any, size);
		else if (!strcmp(kind, "connected"))
			done = connect(s, &to.any, size) || send(s, "x", 1, 0) < 0 || send(s, "x", 1, 0) < 0;
		else if (!strcmp(kind, "dns"))
			done = sendto(s, question, sizeof question - 1, 0, &to.any, size) < 0;
		else
			done = sendto(s, "x", 1, 0, &to.any, size) < 0 || sendto(s, "x", 1, 0, &to.any, size) < 0;
		(void)done; // a connect that fails is what some tests want
	}
	if (wait)
		usleep(wait * 1000);
	_exit(0);
}
