// Makes tlog.json: what Go's own transparency log packages (golang.org/x/mod/sumdb, BSD-3-Clause) say of
// trees, tiles and notes. Run: go run . > tlog.json
//
// The trees hold the entries "0", "1", "2" and so on. Keys come from fixed seeds.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/mldsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const size = 70000

type inclusion struct {
	Index int64    `json:"index"`
	Path  []string `json:"path"`
}

type consistency struct {
	Old  int64    `json:"old"`
	Path []string `json:"path"`
}

type tree struct {
	Size        int64         `json:"size"`
	Root        string        `json:"root"`
	Inclusion   []inclusion   `json:"inclusion"`
	Consistency []consistency `json:"consistency"`
}

type tile struct {
	Level  int    `json:"level"`
	Index  int64  `json:"index"`
	Width  int    `json:"width"`
	Path   string `json:"path"`
	Sha256 string `json:"sha256"`
}

type signed struct {
	Vkey string `json:"vkey"`
	Note string `json:"note"`
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func texts(hashes []tlog.Hash) []string {
	out := []string{}
	for _, h := range hashes {
		out = append(out, hex.EncodeToString(h[:]))
	}
	return out
}

func path(t tlog.Tile) string {
	// Go names the height of its tiles, C2SP fixes it at 8.
	return strings.Replace(t.Path(), "tile/8/", "tile/", 1)
}

func line(name string, kind byte, pub, sig []byte) string {
	id := sha256.Sum256(append([]byte(name+"\n"+string(kind)), pub...))
	return fmt.Sprintf("— %s %s\n", name, base64.StdEncoding.EncodeToString(append(id[:4], sig...)))
}

func vkey(name string, kind byte, pub []byte) string {
	id := sha256.Sum256(append([]byte(name+"\n"+string(kind)), pub...))
	return fmt.Sprintf("%s+%x+%s", name, id[:4], base64.StdEncoding.EncodeToString(append([]byte{kind}, pub...)))
}

func main() {
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(at []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, i := range at {
			out = append(out, hashes[i])
		}
		return out, nil
	})
	for i := range int64(size) {
		more, err := tlog.StoredHashes(i, []byte(strconv.FormatInt(i, 10)), reader)
		must(err)
		hashes = append(hashes, more...)
	}

	random := rand.New(rand.NewPCG(6962, 9162))
	sizes := []int64{255, 256, 257, 65535, 65536, 65537, size}
	for i := range int64(17) {
		sizes = append(sizes, i+1)
	}
	for range 10 {
		sizes = append(sizes, 1+random.Int64N(size))
	}
	var trees []tree
	for _, n := range sizes {
		root, err := tlog.TreeHash(n, reader)
		must(err)
		one := tree{Size: n, Root: hex.EncodeToString(root[:])}
		for _, index := range []int64{0, n - 1, random.Int64N(n)} {
			proof, err := tlog.ProveRecord(n, index, reader)
			must(err)
			one.Inclusion = append(one.Inclusion, inclusion{index, texts(proof)})
		}
		for _, old := range []int64{1, n, 1 + random.Int64N(n)} {
			proof, err := tlog.ProveTree(n, old, reader)
			must(err)
			one.Consistency = append(one.Consistency, consistency{old, texts(proof)})
		}
		trees = append(trees, one)
	}

	var tiles []tile
	for _, t := range tlog.NewTiles(8, 0, size) {
		if t.L == 0 && t.N%50 != 0 && t.W == 256 {
			continue
		}
		data, err := tlog.ReadTileData(t, reader)
		must(err)
		sum := sha256.Sum256(data)
		tiles = append(tiles, tile{t.L, t.N, t.W, path(t), hex.EncodeToString(sum[:])})
	}
	var paths []tile
	for _, n := range []int64{0, 7, 999, 1000, 1234067, 999999, 1000000} {
		for _, w := range []int{256, 17} {
			paths = append(paths, tile{0, n, w, path(tlog.Tile{H: 8, L: 0, N: n, W: w}), ""})
		}
	}

	root, err := tlog.TreeHash(size, reader)
	must(err)
	text := fmt.Sprintf("example.com/log\n%d\n%s\n", size, root.String())
	skey, key, err := note.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{1}, 64)), "example.com/log")
	must(err)
	signer, err := note.NewSigner(skey)
	must(err)
	made, err := note.Sign(&note.Note{Text: text}, signer)
	must(err)

	const at = 1679315147
	seed := bytes.Repeat([]byte{2}, 32)
	edKey := ed25519.NewKeyFromSeed(seed)
	edPub := edKey.Public().(ed25519.PublicKey)
	edSig := ed25519.Sign(edKey, []byte(fmt.Sprintf("cosignature/v1\ntime %d\n%s", at, text)))
	pqKey, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), seed)
	must(err)
	pqPub := pqKey.PublicKey().Bytes()
	message := []byte("subtree/v1\n\x00")
	message = append(message, byte(len("witness.example/pq")))
	message = append(message, "witness.example/pq"...)
	message = binary.BigEndian.AppendUint64(message, at)
	message = append(message, byte(len("example.com/log")))
	message = append(message, "example.com/log"...)
	message = binary.BigEndian.AppendUint64(message, 0)
	message = binary.BigEndian.AppendUint64(message, size)
	message = append(message, root[:]...)
	pqSig, err := pqKey.SignDeterministic(message, nil)
	must(err)
	stamp := binary.BigEndian.AppendUint64(nil, at)
	cosigned := string(made) +
		line("witness.example/ed", 4, edPub, append(bytes.Clone(stamp), edSig...)) +
		line("witness.example/pq", 6, pqPub, append(bytes.Clone(stamp), pqSig...))

	out := json.NewEncoder(os.Stdout)
	must(out.Encode(map[string]any{
		"trees": trees,
		"tiles": tiles,
		"paths": paths,
		"note":  signed{key, string(made)},
		"cosigned": map[string]any{
			"note": cosigned,
			"time": at,
			"keys": []string{vkey("witness.example/ed", 4, edPub), vkey("witness.example/pq", 6, pqPub)},
		},
	}))
}
