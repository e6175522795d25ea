// Attention to the rows of a cache on a CPU, where plain operations cost more than what they compute: those of small
// models by their number, those in bfloat16 by reading a cache at half the speed of its memory. Sums are kept in float.
// row_kernels.py compiles this where it is used.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using bfloat16 = uint16_t;
constexpr int64_t LINE = 64;        // bytes of a cache line
constexpr int64_t WIDTH = 32;       // sums that stay in registers
constexpr int64_t WORTH = 1 << 15;  // multiplications that are worth a second thread

inline float wide(float x) { return x; }

inline float wide(bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline void narrow(float value, float* place) { *place = value; }

inline void narrow(float value, bfloat16* place) {  // to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  *place = static_cast<bfloat16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// e^x for x <= 0 to a relative 1e-7, in operations that every compiler turns into vector code (Cephes, expf).
inline float exp_of(float x) {
  x = x < -87.0f ? -87.0f : x;
  const float rounding = 12582912.0f;  // 1.5 * 2^23: adding it leaves a whole number
  const float n = (x * 1.44269504f + rounding) - rounding;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

// The scores' exponentials in their place, less the greatest score; their sum.
inline float exponentials(float* scores, int64_t count) {
  float greatest = -INFINITY, sum = 0;
#pragma omp simd reduction(max : greatest)
  for (int64_t c = 0; c < count; ++c) greatest = scores[c] > greatest ? scores[c] : greatest;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < count; ++c) {
    scores[c] = exp_of(scores[c] - greatest);
    sum += scores[c];
  }
  return sum;
}

// sums (WIDTH) = factors (count) x rows (count, WIDTH), whose beginnings are `stride` apart. The sums stay in registers,
// and four rows at a time make the chain of additions short.
template <class T>
inline void sum_rows(const float* factors, const T* rows, int64_t stride, int64_t count, float* sums) {
  float mine[WIDTH];
  for (int64_t j = 0; j < WIDTH; ++j) mine[j] = 0;
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const T *r0 = rows + i * stride, *r1 = r0 + stride, *r2 = r1 + stride, *r3 = r2 + stride;
    for (int64_t ahead = 4; ahead < 8; ++ahead)
      for (int64_t j = 0; j < WIDTH; j += LINE / sizeof(T)) __builtin_prefetch(r0 + ahead * stride + j);
    const float f0 = factors[i], f1 = factors[i + 1], f2 = factors[i + 2], f3 = factors[i + 3];
#pragma omp simd
    for (int64_t j = 0; j < WIDTH; ++j)
      mine[j] += f0 * wide(r0[j]) + f1 * wide(r1[j]) + f2 * wide(r2[j]) + f3 * wide(r3[j]);
  }
  for (; i < count; ++i)
#pragma omp simd
    for (int64_t j = 0; j < WIDTH; ++j) mine[j] += factors[i] * wide(rows[i * stride + j]);
  for (int64_t j = 0; j < WIDTH; ++j) sums[j] = mine[j];
}

// sums (width) = factors (count) x rows (count, width), whose beginnings are `stride` apart; as far as `room` there are
// numbers in rows, and places in sums.
template <class T>
void product(const float* factors, const T* rows, int64_t stride, int64_t count, int64_t width, int64_t room,
             float* sums) {
  int64_t first = 0;
  for (; first < width && first + WIDTH <= room; first += WIDTH)
    sum_rows(factors, rows + first, stride, count, sums + first);
  if (first >= width) return;
  for (int64_t j = first; j < width; ++j) sums[j] = 0;
  for (int64_t i = 0; i < count; ++i) {
    const T* row = rows + i * stride;
    for (int64_t j = first; j < width; ++j) sums[j] += factors[i] * wide(row[j]);
  }
}

// A block of a cache: keys (rows, key heads, size, columns) and values (rows, key heads, columns, value size).
template <class T>
struct Block {
  T* keys;
  T* values;
  int64_t columns;
};

// Where a token lies: in this column of this row of this block. It sees its row up to itself.
struct Place {
  int64_t block, row, column;
};

template <class T>
void store(const T* keys, int64_t key_token_stride, int64_t key_head_stride, const T* values,
           int64_t value_token_stride, int64_t value_head_stride, const Block<T>* blocks, const Place* places,
           int64_t tokens, int64_t key_heads, int64_t size, int64_t value_size) {
#pragma omp parallel for if (tokens * key_heads * size > WORTH)
  for (int64_t head = 0; head < key_heads; ++head)
    for (int64_t t = 0; t < tokens; ++t) {
      const Block<T>& block = blocks[places[t].block];
      const int64_t at = places[t].row * key_heads + head, column = places[t].column;
      const T* key = keys + t * key_token_stride + head * key_head_stride;
      T* key_place = block.keys + at * size * block.columns + column;
      for (int64_t d = 0; d < size; ++d) key_place[d * block.columns] = key[d];
      std::memcpy(block.values + (at * block.columns + column) * value_size,
                  values + t * value_token_stride + head * value_head_stride, value_size * sizeof(T));
    }
}

template <class T>
void decode(const T* query, int64_t token_stride, int64_t head_stride, const Block<T>* blocks, const Place* places,
            const int64_t* tokens, int64_t count, T* out, int64_t key_heads, int64_t group, int64_t size,
            int64_t value_size, float scale) {
  int64_t most = 0, work = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Place& place = places[tokens[i]];
    const int64_t columns = blocks[place.block].columns;
    most = columns > most ? columns : most;
    work += (place.column + 1) * key_heads * group * (size + value_size);
  }
#pragma omp parallel if (work > WORTH)
  {
    std::vector<float> asked(size), weights(most), attended(value_size);
#pragma omp for schedule(dynamic, 4)
    for (int64_t task = 0; task < count * key_heads; ++task) {
      const int64_t token = tokens[task / key_heads], head = task % key_heads;
      const Place& place = places[token];
      const Block<T>& block = blocks[place.block];
      const int64_t at = place.row * key_heads + head, columns = block.columns, end = place.column + 1;
      const T* keys = block.keys + at * size * columns;
      const T* values = block.values + at * columns * value_size;
      for (int64_t g = 0; g < group; ++g) {
        const T* q = query + token * token_stride + (head * group + g) * head_stride;
        for (int64_t d = 0; d < size; ++d) asked[d] = scale * wide(q[d]);
        product(asked.data(), keys, columns, size, end, columns, weights.data());
        const float share = 1.0f / exponentials(weights.data(), end);
        product(weights.data(), values, value_size, end, value_size, value_size, attended.data());
        T* mine = out + ((token * key_heads + head) * group + g) * value_size;
        for (int64_t i = 0; i < value_size; ++i) narrow(attended[i] * share, mine + i);
      }
    }
  }
}

template <class T>
void causal_softmax(T* scores, int64_t heads, int64_t tokens, int64_t columns, int64_t seen) {
#pragma omp parallel if (heads * tokens * columns > WORTH)
  {
    std::vector<float> row(columns);
#pragma omp for
    for (int64_t i = 0; i < heads * tokens; ++i) {
      T* place = scores + i * columns;
      const int64_t end = seen + i % tokens;
      for (int64_t c = 0; c < end; ++c) row[c] = wide(place[c]);
      const float share = 1.0f / exponentials(row.data(), end);
      for (int64_t c = 0; c < end; ++c) narrow(row[c] * share, place + c);
      std::memset(place + end, 0, (columns - end) * sizeof(T));
    }
  }
}

template <class T>
void copy_row(const Block<T>* blocks, int64_t from_block, int64_t from_row, int64_t to_block, int64_t to_row,
              int64_t length, int64_t key_heads, int64_t size, int64_t value_size) {
  const Block<T>&from = blocks[from_block], &to = blocks[to_block];
  for (int64_t head = 0; head < key_heads; ++head) {
    const int64_t source = from_row * key_heads + head, target = to_row * key_heads + head;
    for (int64_t d = 0; d < size; ++d)
      std::memcpy(to.keys + (target * size + d) * to.columns, from.keys + (source * size + d) * from.columns,
                  length * sizeof(T));
    std::memcpy(to.values + target * to.columns * value_size, from.values + source * from.columns * value_size,
                length * value_size * sizeof(T));
  }
}

template <class T>
void rms_norm(const T* states, const T* weight, T* out, int64_t rows, int64_t size, float eps) {
#pragma omp parallel for if (rows * size > WORTH)
  for (int64_t row = 0; row < rows; ++row) {
    const T* x = states + row * size;
    T* y = out + row * size;
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < size; ++i) squares += wide(x[i]) * wide(x[i]);
    const float scale = 1.0f / std::sqrt(squares / size + eps);
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) {
      T normed;  // rounded before it is weighted, as transformers does it
      narrow(wide(x[i]) * scale, &normed);
      narrow(wide(normed) * wide(weight[i]), y + i);
    }
  }
}

}  // namespace

// For each type: strides are in numbers, and the last one of each tensor is 1.
//
// store: keys and values (tokens, key heads, size) to their places.
// decode: attention of `count` tokens, named by their places in the pass, to their rows up to themselves; query (tokens,
// heads, size) and out (tokens, heads, value size) are of the whole pass. Heads are key heads x group. `size` is a
// multiple of 4.
// causal_softmax: in place, of scores (heads, tokens, columns), of which token t sees the first `seen` + t.
// copy_row: the first `length` columns of a row, to another row.
// rms_norm: of states (rows, size), weighted by weight (size).
#define KERNELS(T, NAME)                                                                                              \
  extern "C" void store_##NAME(const T* keys, int64_t key_token_stride, int64_t key_head_stride, const T* values,     \
                               int64_t value_token_stride, int64_t value_head_stride, const void* blocks,             \
                               const void* places, int64_t tokens, int64_t key_heads, int64_t size,                   \
                               int64_t value_size) {                                                                  \
    store(keys, key_token_stride, key_head_stride, values, value_token_stride, value_head_stride,                     \
          static_cast<const Block<T>*>(blocks), static_cast<const Place*>(places), tokens, key_heads, size,           \
          value_size);                                                                                                \
  }                                                                                                                   \
  extern "C" void decode_##NAME(const T* query, int64_t token_stride, int64_t head_stride, const void* blocks,        \
                                const void* places, const int64_t* tokens, int64_t count, T* out, int64_t key_heads,  \
                                int64_t group, int64_t size, int64_t value_size, float scale) {                       \
    decode(query, token_stride, head_stride, static_cast<const Block<T>*>(blocks), static_cast<const Place*>(places), \
           tokens, count, out, key_heads, group, size, value_size, scale);                                            \
  }                                                                                                                   \
  extern "C" void causal_softmax_##NAME(T* scores, int64_t heads, int64_t tokens, int64_t columns, int64_t seen) {    \
    causal_softmax(scores, heads, tokens, columns, seen);                                                             \
  }                                                                                                                   \
  extern "C" void copy_row_##NAME(const void* blocks, int64_t from_block, int64_t from_row, int64_t to_block,          \
                                  int64_t to_row, int64_t length, int64_t key_heads, int64_t size,                    \
                                  int64_t value_size) {                                                               \
    copy_row(static_cast<const Block<T>*>(blocks), from_block, from_row, to_block, to_row, length, key_heads, size,   \
             value_size);                                                                                             \
  }                                                                                                                   \
  extern "C" void rms_norm_##NAME(const T* states, const T* weight, T* out, int64_t rows, int64_t size, float eps) {  \
    rms_norm(states, weight, out, rows, size, eps);                                                                   \
  }

KERNELS(float, float32)
KERNELS(bfloat16, bfloat16)
