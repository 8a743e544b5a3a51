// Ranks as processes. The only file that includes mpi.h.
#define OMPI_SKIP_MPICXX 1  // the C++ bindings, gone from the standard, need a library of their own
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <limits>

#include "collectives.h"
#include "dsv/base/log.h"
#include "launcher.h"

namespace dsv::comm {
namespace {

// MPI counts are ints: longer messages travel in pieces.
constexpr std::int64_t kMaxMessageBytes = std::int64_t{1} << 30;

[[noreturn]] void throw_mpi(int code, const std::string& what) {
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw_error(ExitCode::kHang, "[comm] {}: {}", what, text);
}

#define DSV_MPI(call)                                  \
  do {                                                 \
    const int code_ = (call);                          \
    if (code_ != MPI_SUCCESS) throw_mpi(code_, #call); \
  } while (false)

bool is_finalized() {
  int done = 0;
  MPI_Finalized(&done);
  return done != 0;
}

int rank_of(MPI_Comm comm) {
  int rank = 0;
  DSV_MPI(MPI_Comm_rank(comm, &rank));
  return rank;
}

int size_of(MPI_Comm comm) {
  int size = 0;
  DSV_MPI(MPI_Comm_size(comm, &size));
  return size;
}

[[noreturn]] void abort_all(int exit_code) {
  std::fflush(nullptr);
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  _exit(exit_code);
}

class Mpi final : public Collectives {
 public:
  // Owns comm.
  explicit Mpi(MPI_Comm comm) : Collectives(rank_of(comm), comm::size_of(comm)), comm_(comm) {
    DSV_MPI(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN));
  }
  ~Mpi() override {
    // Freeing is collective: with an error in flight the peers may be elsewhere.
    if (std::uncaught_exceptions() == exceptions_at_start_ && !is_finalized())
      MPI_Comm_free(&comm_);
  }

  [[noreturn]] void abort(int exit_code) override { abort_all(exit_code); }

 private:
  const char* host_name() const override { return "mpi"; }
  // Peers in rotated order, so that no rank is everybody's first. Pieces of one message keep their
  // order because MPI does not let messages of one sender and tag overtake each other; the tag is
  // the number of the call, so a rank in another call never takes them.
  void exchange_with_peers(std::span<const Bytes> send, std::span<const Bytes> receive) override {
    const int tag = static_cast<int>(seq() % 32749);
    requests_.clear();
    sources_.clear();
    for (int k = 1; k < size(); ++k) {
      const int peer = (rank() - k + size()) % size();
      for_pieces(receive[static_cast<std::size_t>(peer)], [&](std::byte* data, int n) {
        MPI_Request request;
        DSV_MPI(MPI_Irecv(data, n, MPI_BYTE, peer, tag, comm_, &request));
        requests_.push_back(request);
        sources_.push_back({peer, n});
      });
    }
    for (int k = 1; k < size(); ++k) {
      const int peer = (rank() + k) % size();
      for_pieces(send[static_cast<std::size_t>(peer)], [&](std::byte* data, int n) {
        MPI_Request request;
        DSV_MPI(MPI_Isend(data, n, MPI_BYTE, peer, tag, comm_, &request));
        requests_.push_back(request);
      });
    }
    if (requests_.empty()) return;
    statuses_.resize(requests_.size());
    const int code =
        MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), statuses_.data());
    if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS) throw_mpi(code, "MPI_Waitall");
    for (std::size_t i = 0; i < statuses_.size(); ++i) {
      if (code == MPI_ERR_IN_STATUS && statuses_[i].MPI_ERROR != MPI_SUCCESS) {
        const int peer = i < sources_.size() ? sources_[i].peer : -1;
        throw_mpi(statuses_[i].MPI_ERROR,
                  peer >= 0 ? format("message from rank {}", peer) : std::string("sending"));
      }
      if (i >= sources_.size()) continue;
      int got = 0;
      DSV_MPI(MPI_Get_count(&statuses_[i], MPI_BYTE, &got));
      if (got != sources_[i].num_bytes) {
        throw_error(ExitCode::kHang, "[comm] rank {} expects {} bytes from rank {}, which sends {}",
                    rank(), sources_[i].num_bytes, sources_[i].peer, got);
      }
    }
  }

  void gather_in_place(std::byte* out, std::span<const std::int64_t> offsets) override {
    if (offsets.back() > std::numeric_limits<int>::max()) {
      return Collectives::gather_in_place(out, offsets);
    }
    counts_.resize(static_cast<std::size_t>(size()));
    displacements_.resize(counts_.size());
    for (std::size_t p = 0; p < counts_.size(); ++p) {
      counts_[p] = static_cast<int>(offsets[p + 1] - offsets[p]);
      displacements_[p] = static_cast<int>(offsets[p]);
    }
    const bool even =
        std::all_of(counts_.begin(), counts_.end(), [&](int c) { return c == counts_[0]; });
    if (even) {
      DSV_MPI(MPI_Allgather(MPI_IN_PLACE, 0, MPI_BYTE, out, counts_[0], MPI_BYTE, comm_));
    } else {
      DSV_MPI(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_BYTE, out, counts_.data(), displacements_.data(),
                             MPI_BYTE, comm_));
    }
  }

  void spread(Bytes data, int root) override {
    for_pieces(data, [&](std::byte* piece, int n) {
      DSV_MPI(MPI_Bcast(piece, n, MPI_BYTE, root, comm_));
    });
  }

  void wait_for_all() override { DSV_MPI(MPI_Barrier(comm_)); }

  std::unique_ptr<Collectives> make_split(int color, int key) override {
    MPI_Comm part = MPI_COMM_NULL;
    DSV_MPI(MPI_Comm_split(comm_, color, key, &part));
    return std::make_unique<Mpi>(part);
  }

  template <typename F>
  static void for_pieces(Bytes bytes, const F& f) {
    for (std::int64_t begin = 0; begin < bytes.size; begin += kMaxMessageBytes) {
      f(bytes.data + begin, static_cast<int>(std::min(kMaxMessageBytes, bytes.size - begin)));
    }
  }

  struct Source {
    int peer, num_bytes;
  };
  MPI_Comm comm_;
  int exceptions_at_start_ = std::uncaught_exceptions();
  std::vector<MPI_Request> requests_;  // the receives of sources_, then sends
  std::vector<MPI_Status> statuses_;
  std::vector<Source> sources_;
  std::vector<int> counts_, displacements_;
};

}  // namespace

MpiSession::MpiSession(int* argc, char*** argv) : exceptions_at_start_(std::uncaught_exceptions()) {
  char host[256] = {};
  gethostname(host, sizeof(host) - 1);
  host_ = host;
  const Launcher launcher = find_launcher([](const char* name) { return std::getenv(name); });
  if (!launcher.found) return;  // MPI as a singleton would need its daemons for nothing

  prepare_environment(launcher);
  int provided = MPI_THREAD_SINGLE;
  DSV_MPI(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided));
  launched_ = true;
  DSV_MPI(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
  if (provided < MPI_THREAD_FUNNELED) {
    throw_error(ExitCode::kEnvironment,
                "[launch] this MPI does not allow threads beside its own calls");
  }
  const int size = comm::size_of(MPI_COMM_WORLD);
  if (launcher.announced_ranks > 0 && launcher.announced_ranks != size) {
    throw_error(
        ExitCode::kEnvironment,
        "[launch] {} started {} ranks, MPI finds {}: use the mpirun of the MPI that dsv was built "
        "with",
        launcher.name, launcher.announced_ranks, size);
  }
  MPI_Comm local = MPI_COMM_NULL;
  DSV_MPI(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &local));
  local_rank_ = rank_of(local);
  local_size_ = comm::size_of(local);
  host_rank_ = rank_of(MPI_COMM_WORLD);
  DSV_MPI(MPI_Bcast(&host_rank_, 1, MPI_INT, 0, local));
  DSV_MPI(MPI_Comm_free(&local));
}

MpiSession::~MpiSession() {
  if (launched_ && std::uncaught_exceptions() == exceptions_at_start_ && !is_finalized())
    MPI_Finalize();
}

std::unique_ptr<Communicator> MpiSession::world() {
  if (!launched_) return make_self();
  MPI_Comm world = MPI_COMM_NULL;
  DSV_MPI(MPI_Comm_split(MPI_COMM_WORLD, 0, host_rank_, &world));
  return std::make_unique<Mpi>(world);
}

void MpiSession::abort(int exit_code) {
  if (launched_ && !is_finalized()) abort_all(exit_code);
  std::fflush(nullptr);
  _exit(exit_code);
}

}  // namespace dsv::comm
